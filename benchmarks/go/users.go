// HTTP as people run it: with time limits, TLS, a proxy, many hosts.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"time"
)

type settings struct {
	Url     string
	Content string
	Proxy   string
	Points  []int
}

const (
	each  = 5 * time.Second
	total = 30 * time.Second
)

// clientFor has no limits (0), 5 seconds for each step it can limit, or 30 in all.
func clientFor(limit int, todo settings, caFile string) *http.Client {
	transport := &http.Transport{MaxConnsPerHost: 8, MaxIdleConnsPerHost: 8, DisableCompression: true}
	if strings.HasPrefix(todo.Url, "https") {
		transport.TLSClientConfig = verifying(caFile, false)
	}
	if todo.Proxy != "" {
		proxy, err := url.Parse(todo.Proxy)
		check(err)
		transport.Proxy = http.ProxyURL(proxy)
	}
	client := &http.Client{Transport: transport}
	switch limit {
	case 5:
		transport.DialContext = (&net.Dialer{Timeout: each}).DialContext
		transport.TLSHandshakeTimeout, transport.ResponseHeaderTimeout = each, each
	case 30:
		client.Timeout = total
	}
	return client
}

func post(client *http.Client, url string, content []byte) {
	reply, err := client.Post(url, "application/octet-stream", bytes.NewReader(content))
	check(err)
	_, err = io.Copy(io.Discard, reply.Body)
	check(err)
	reply.Body.Close()
}

func users(workload, caFile, text string, budget time.Duration) map[int]map[string]float64 {
	var todo settings
	check(json.Unmarshal([]byte(text), &todo))
	figures := map[int]map[string]float64{}
	for _, point := range todo.Points {
		client := clientFor(point, todo, caFile)
		one := func() { exchange(client, todo.Url) }
		if todo.Content != "" {
			one = func() { post(client, todo.Url, []byte(todo.Content)) }
		}
		switch workload {
		case "limits-1":
			cost := steady(func(n int) {
				for i := 0; i < n; i++ {
					one()
				}
			}, budget)
			figures[point] = map[string]float64{"time": cost}
		case "limits-5000":
			figures[point] = map[string]float64{"time": exchange5000(one)}
		case "limits-download", "tls-download":
			figures[point] = map[string]float64{"time": transfer(func() { exchange(client, todo.Url+"big") })}
		case "limits-upload":
			content := make([]byte, big)
			figures[point] = map[string]float64{"time": transfer(func() { post(client, todo.Url, content) })}
		default:
			figures[point] = exchange64(one, budget)
		}
	}
	return figures
}

// exchange5000 gives the time of one exchange of 5,000 goroutines that make two each.
func exchange5000(one func()) float64 {
	const many = 5000
	crowd(tasks, tasks, one, nil)
	pieces := make([]float64, 3)
	for i := range pieces {
		start := time.Now()
		crowd(many, 2*many, one, nil)
		pieces[i] = time.Since(start).Seconds() / (2 * many) * 1e6
	}
	sort.Float64s(pieces)
	return pieces[1]
}
