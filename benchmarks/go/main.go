// Go's net/http over the same workloads.  Usage: main WORKLOAD ADDR:PORT BUDGET CA_FILE|POINTS [SETTINGS]
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	batches = 5
	tasks   = 64
	watched = 40 * tasks
	big     = 100000000
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// steady finds a batch size by doubling and gives the median of some batches, in microseconds a piece.
func steady(batch func(int), budget time.Duration) float64 {
	timed := func(n int) time.Duration {
		start := time.Now()
		batch(n)
		return time.Since(start)
	}
	n := 1
	timed(n)
	took := timed(n)
	for took < budget/25 {
		n *= 2
		took = timed(n)
	}
	n = int(float64(n) * float64(budget) / batches / float64(took))
	if n < 1 {
		n = 1
	}
	runtime.GC()
	pieces := make([]float64, batches)
	for i := range pieces {
		pieces[i] = timed(n).Seconds() / float64(n) * 1e6
	}
	sort.Float64s(pieces)
	return pieces[batches/2]
}

func exchange(client *http.Client, url string) {
	reply, err := client.Get(url)
	check(err)
	_, err = io.Copy(io.Discard, reply.Body)
	check(err)
	reply.Body.Close()
}

// crowd has many goroutines share one budget of exchanges; seen, if given, is told each one's waits.
func crowd(tasks, count int, one func(), seen func([]float64)) {
	left := int64(count)
	var all sync.WaitGroup
	all.Add(tasks)
	for i := 0; i < tasks; i++ {
		go func() {
			defer all.Done()
			var waits []float64
			for atomic.AddInt64(&left, -1) >= 0 {
				start := time.Now()
				one()
				if seen != nil {
					waits = append(waits, time.Since(start).Seconds()*1e6)
				}
			}
			if seen != nil {
				seen(waits)
			}
		}()
	}
	all.Wait()
}

func exchange64(one func(), budget time.Duration) map[string]float64 {
	crowd(tasks, tasks, one, nil)
	cost := steady(func(n int) { crowd(tasks, n*tasks, one, nil) }, budget) / tasks
	var lock sync.Mutex
	var sum, longest float64
	var count, starved int
	crowd(tasks, watched, one, func(waits []float64) {
		lock.Lock()
		defer lock.Unlock()
		for _, wait := range waits {
			sum += wait
			count++
			if wait > longest {
				longest = wait
			}
		}
		if len(waits) < watched/tasks/10 {
			starved++
		}
	})
	mean := sum / float64(count)
	return map[string]float64{
		"time": cost, "mean_wait": mean, "longest_wait": longest,
		"longest/mean": longest / mean, "starved": float64(starved),
	}
}

// transfer gives the median time in milliseconds of five requests, after one that opens the connection.
func transfer(request func()) float64 {
	request()
	pieces := make([]float64, batches)
	for i := range pieces {
		start := time.Now()
		request()
		pieces[i] = time.Since(start).Seconds() * 1e3
	}
	sort.Float64s(pieces)
	return pieces[batches/2]
}

func verifying(caFile string, resume bool) *tls.Config {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(caFile)
	check(err)
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: roots}
	if resume {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	return config
}

func cold(workload, addr, caFile string, budget time.Duration) float64 {
	if workload == "cold-tcp" {
		return steady(func(n int) {
			for i := 0; i < n; i++ {
				conn, err := net.Dial("tcp", addr)
				check(err)
				conn.Close()
			}
		}, budget)
	}
	config := verifying(caFile, workload == "cold-resumed")
	buffer := make([]byte, 65536)
	return steady(func(n int) {
		for i := 0; i < n; i++ {
			conn, err := tls.Dial("tcp", addr, config)
			check(err)
			if workload == "cold-resumed" {
				_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
				check(err)
				_, err = conn.Read(buffer)
				check(err)
			}
			conn.Close()
		}
	}, budget)
}

func resident() float64 {
	text, err := os.ReadFile("/proc/self/statm")
	check(err)
	var size, pages float64
	fmt.Sscan(string(text), &size, &pages)
	return pages * float64(os.Getpagesize())
}

func processor() float64 {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(used.Utime) + seconds(used.Stime)
}

// fan opens n connections, some at a time; each one sends a line, reads it back, and waits for more.
func fan(addr string, n, atOnce int) []net.Conn {
	line := []byte("hello, world\n")
	conns := make([]net.Conn, n)
	window := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	all.Add(n)
	for i := 0; i < n; i++ {
		window <- struct{}{}
		go func(i int) {
			conn, err := net.Dial("tcp", addr)
			check(err)
			conns[i] = conn
			_, err = conn.Write(line)
			check(err)
			reader := bufio.NewReader(conn)
			_, err = reader.ReadString('\n')
			check(err)
			<-window
			all.Done()
			reader.ReadString('\n')
		}(i)
	}
	all.Wait()
	return conns
}

func fanOut(addr, points string, all bool) map[string]map[string]float64 {
	closeAll := func(conns []net.Conn) {
		for _, conn := range conns {
			conn.Close()
		}
		time.Sleep(100 * time.Millisecond)
	}
	closeAll(fan(addr, 200, 512))
	runtime.GC()
	before := resident()
	figures := map[string]map[string]float64{}
	for _, point := range strings.Split(points, ",") {
		n, err := strconv.Atoi(point)
		check(err)
		runtime.GC()
		cpu, start := processor(), time.Now()
		atOnce := 512
		if all {
			atOnce = n
		}
		conns := fan(addr, n, atOnce)
		took := time.Since(start).Seconds() / float64(n) * 1e6
		cpu = (processor() - cpu) / float64(n) * 1e6
		figures[point] = map[string]float64{"time": took, "cpu": cpu, "bytes": (resident() - before) / float64(n)}
		closeAll(conns)
	}
	return figures
}

func main() {
	workload, addr := os.Args[1], os.Args[2]
	seconds, err := strconv.ParseFloat(os.Args[3], 64)
	check(err)
	budget := time.Duration(seconds * float64(time.Second))
	transport := &http.Transport{MaxConnsPerHost: 8, MaxIdleConnsPerHost: 8, DisableCompression: true}
	client := &http.Client{Transport: transport}
	url := "http://" + addr + "/"
	one := func() { exchange(client, url) }
	if len(os.Args) > 5 {
		check(json.NewEncoder(os.Stdout).Encode(users(workload, os.Args[4], os.Args[5], budget)))
		return
	}
	var metrics map[string]float64
	switch workload {
	case "fan-out", "fan-out-at-once":
		check(json.NewEncoder(os.Stdout).Encode(fanOut(addr, os.Args[4], workload == "fan-out-at-once")))
		return
	case "exchange-1":
		cost := steady(func(n int) {
			for i := 0; i < n; i++ {
				exchange(client, url)
			}
		}, budget)
		metrics = map[string]float64{"time": cost}
	case "exchange-64":
		metrics = exchange64(one, budget)
	case "exchange-5000":
		metrics = map[string]float64{"time": exchange5000(one)}
	case "download":
		metrics = map[string]float64{"time": transfer(func() { exchange(client, url+"big") })}
	case "upload":
		content := make([]byte, big)
		metrics = map[string]float64{"time": transfer(func() { post(client, url, content) })}
	default:
		metrics = map[string]float64{"time": cold(workload, addr, os.Args[4], budget)}
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"0": metrics}))
}
