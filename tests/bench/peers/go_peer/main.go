// Go's x/crypto/ssh: one kept connection per host (go), or a connection per command (go-each); a goroutine per caller.
// The options and the one JSON object that is printed are those of bench_ssh.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

var (
	contender   = flag.String("contender", "go", "go or go-each")
	workload    = flag.String("workload", "", "W1, W2, W3, W4-down, W4-up, W5 or W6")
	hostsFile   = flag.String("hosts-file", "", "lines address:port")
	user        = flag.String("user", "", "who logs in")
	key         = flag.String("key", "", "a private key")
	ops         = flag.Int("ops", 1, "commands in total")
	concurrency = flag.Int("concurrency", 1, "at once")
	rttMs       = flag.Float64("rtt-ms", 0, "for the record")
	warm        = flag.Int("warm", 0, "commands on each host before measuring")
	hold        = flag.Float64("hold", 0, "seconds before the memory is read")
	cmd         = flag.String("cmd", "true", "the command")
	amount      = flag.Int64("bytes", 256<<20, "W4")

	hosts   []string
	config  *ssh.ClientConfig
	mutex   sync.Mutex
	took    []float64
	failed  int
	made    int
	clients []*keptClient
)

type keptClient struct {
	once   sync.Once
	client *ssh.Client
	err    error
}

func connect(host string) (*ssh.Client, error) {
	client, err := ssh.Dial("tcp", host, config)
	if err == nil {
		mutex.Lock()
		made++
		mutex.Unlock()
	}
	return client, err
}

func kept(i int) (*ssh.Client, error) {
	k := clients[i]
	k.once.Do(func() { k.client, k.err = connect(hosts[i]) })
	return k.client, k.err
}

func add(since time.Time, ok bool) {
	mutex.Lock()
	defer mutex.Unlock()
	took = append(took, float64(time.Since(since).Nanoseconds())/1e6)
	if !ok {
		failed++
	}
}

func run(i int) error {
	client, err := kept(i)
	if *contender == "go-each" {
		client, err = connect(hosts[i])
	}
	if err != nil {
		return err
	}
	if *contender == "go-each" {
		defer client.Close()
	}
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	_, err = session.Output(*cmd)
	return err
}

func commands(total, width int, measuring bool) {
	var all sync.WaitGroup
	for first := 0; first < width && first < total; first++ {
		all.Add(1)
		go func(first int) {
			defer all.Done()
			for op := first; op < total; op += width {
				since := time.Now()
				err := run(op % len(hosts))
				if measuring {
					add(since, err == nil)
				}
			}
		}(first)
	}
	all.Wait()
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

type endless struct{ block []byte }

func (e endless) Read(p []byte) (int, error) { return copy(p, e.block), nil }

func transfer() error {
	client, err := kept(0)
	if err != nil {
		return err
	}
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	if *workload == "W4-up" {
		session.Stdin = io.LimitReader(endless{bytes.Repeat([]byte("x"), 256<<10)}, *amount)
		return session.Run("cat >/dev/null")
	}
	var arrived counter
	session.Stdout = &arrived
	if err := session.Run(fmt.Sprintf("head -c %d /dev/zero", *amount)); err != nil {
		return err
	}
	if arrived.n != *amount {
		return fmt.Errorf("%d bytes of %d", arrived.n, *amount)
	}
	return nil
}

func cpu() float64 {
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

func residentMB() float64 {
	var size, resident int64
	text, _ := os.ReadFile("/proc/self/statm")
	fmt.Sscan(string(text), &size, &resident)
	return float64(resident*int64(os.Getpagesize())) / 1e6
}

func main() {
	flag.Parse()
	file, err := os.Open(*hostsFile)
	if err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			hosts = append(hosts, line)
			clients = append(clients, &keptClient{})
		}
	}
	text, err := os.ReadFile(*key)
	if err != nil {
		log.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		log.Fatal(err)
	}
	config = &ssh.ClientConfig{User: *user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}

	commands(*warm*len(hosts), len(hosts), false)
	cpuBegin, begin := cpu(), time.Now()
	switch *workload {
	case "W4-down", "W4-up":
		err := transfer()
		add(begin, err == nil)
	case "W5":
		for n := 0; n < *ops; n++ {
			since := time.Now()
			client, err := connect(hosts[n%len(hosts)])
			add(since, err == nil)
			if err == nil {
				client.Close()
			}
		}
	case "W6":
		gate := make(chan bool, 32)
		var all sync.WaitGroup
		for i := range hosts {
			all.Add(1)
			gate <- true
			go func(i int) {
				_, err := kept(i)
				add(begin, err == nil)
				<-gate
				all.Done()
			}(i)
		}
		all.Wait()
	default:
		commands(*ops, *concurrency, true)
	}
	wall, used := time.Since(begin).Seconds(), cpu()-cpuBegin
	time.Sleep(time.Duration(*hold * float64(time.Second)))
	sort.Float64s(took)
	at := func(share float64) float64 {
		if len(took) == 0 {
			return 0
		}
		return took[int(share*float64(len(took)-1)+0.5)]
	}
	fmt.Printf("{\"contender\": %q, \"workload\": %q, \"hosts\": %d, \"ops\": %d, \"concurrency\": %d, \"rtt_ms\": %g, \"wall_s\": %.6f, \"ops_per_s\": %.2f, "+
		"\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"failed\": %d, \"connections_made\": %d, \"cpu_s\": %.6f, \"rss_mb\": %.3f}\n",
		*contender, *workload, len(hosts), len(took), *concurrency, *rttMs, wall, float64(len(took))/wall, at(0.5), at(0.99), failed, made, used, residentMB())
}
