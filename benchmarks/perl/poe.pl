#!/usr/bin/perl
# The ancestor over the same workloads.
# Usage: poe.pl WORKLOAD PORT BUDGET POINTS PATIENCE; prints its figures as JSON.
use strict;
use warnings;
use POE;
use POE::Component::Client::Keepalive;
use Time::HiRes qw(time);

my ($workload, $port, $budget, $points, $patience) = @ARGV;
my @points = split /,/, $points;
my $batches = 5;
my $manager = POE::Component::Client::Keepalive->new(
  max_per_host => 8, max_open => 8192, keep_alive => 3600, timeout => 3600,
);
my (%figures, @known);
my $on_answer;

sub loopback { my $i = shift; return sprintf "127.1.%d.%d", int($i / 250), $i % 250 + 1 }

sub allocate {
  $manager->allocate(scheme => "http", addr => $_[0], port => $port, event => "answer", context => 1);
}

# Allocate and release once per address, starting with the given one; then tell how long it took.
sub cycles {
  my ($addrs, $from, $count, $done) = @_;
  my ($next, $left, $start) = ($from, $count, time);
  $on_answer = sub {
    my $answer = shift;
    die "$answer->{function}: $answer->{error_str}\n" unless $answer->{connection};
    delete $answer->{connection};
    return $done->(time - $start) unless --$left;
    $next = 0 if ++$next == @$addrs;
    allocate($addrs->[$next]);
  };
  allocate($addrs->[$next]);
}

# Find a batch size by doubling, then give the median of some batches, in microseconds a piece.
sub steady {
  my ($addrs, $done) = @_;
  my ($count, $from, @pieces, $step) = (1, 0);
  my $again = sub {
    my $start = $from;
    $from = ($from + $count) % @$addrs;
    cycles($addrs, $start, $count, $step);
  };
  my $measuring = 0;
  $step = sub {
    my $took = shift;
    if ($measuring) {
      push @pieces, $took / $count;
      return $done->(1e6 * (sort { $a <=> $b } @pieces)[$batches / 2]) if @pieces == $batches;
    }
    elsif ($took < $budget / 25) { $count *= 2 }
    else {
      $measuring = 1;
      $count = int($count * $budget / $batches / $took) || 1;
    }
    $again->();
  };
  $again->();
}

# By how the cost grew so far: is the next point of the series worth waiting for?
sub affordable {
  my $point = shift;
  return 1 unless @known;
  my ($last, $growth) = ($known[-1], 1);
  if (@known > 1) {
    my $before = $known[-2];
    $growth = log($figures{$last} / $figures{$before}) / log($last / $before);
  }
  $growth = $growth < 0 ? 0 : $growth > 1.2 ? 1.2 : $growth;
  return $figures{$last} * ($point / $last) ** $growth * $point / 1e6 < $patience;
}

sub finish {
  printf "{%s}\n", join ",", map { qq("$_": {"time": $figures{$_}}) } @known;
  $manager->shutdown();
  exit 0;
}

sub note { my ($point, $cost) = @_; $figures{$point} = $cost; push @known, $point }

# The default loop is select(2): it has no room for more than about a thousand descriptors.
sub keys_from {
  my ($addrs) = @_;
  my $point = shift @points;
  finish() if !defined $point or $point > 1000 or !affordable($point);
  my @new = map { loopback($_) } scalar(@$addrs) .. $point - 1;
  my @all = (@$addrs, @new);
  cycles(\@new, 0, scalar(@new), sub {
    steady(\@all, sub { note($point, shift); keys_from(\@all) });
  });
}

sub crowd {
  my ($count, $done) = @_;
  my ($left, $start) = ($count, time);
  $on_answer = sub { my $answer = shift; $poe_kernel->yield(drop => delete $answer->{connection}) };
  my $finish = sub { $done->(time - $start) unless --$left };
  $poe_kernel->state(drop => sub { $_[ARG0] = undef; $finish->() });
  allocate("127.0.0.1") for 1 .. $count;
}

sub contention {
  my $point = shift @points;
  finish() if !defined $point or !affordable($point);
  crowd($point, sub { note($point, $_[0] / $point * 1e6); contention() });
}

POE::Session->create(inline_states => {
  _start => sub { $_[KERNEL]->yield("begin") },
  begin  => sub {
    if ($workload eq "contention") { crowd(8, \&contention) }
    elsif ($workload eq "warm") { steady(["127.0.0.1"], sub { note(0, shift); finish() }) }
    else { keys_from([]) }
  },
  answer => sub { $on_answer->($_[ARG0]) },
});
POE::Kernel->run();
