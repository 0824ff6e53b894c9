// An SSH server that costs nothing: any user and key may log in, any command ends at once with status 0. For the client's own cost.
// free_server HOSTS-FILE: listens on each line's address:port, says "listening", and serves until its standard input ends.
package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"golang.org/x/crypto/ssh"
)

func serveChannel(channel ssh.Channel, requests <-chan *ssh.Request) {
	for request := range requests {
		if request.Type != "exec" {
			request.Reply(false, nil)
			continue
		}
		request.Reply(true, nil)
		channel.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
		channel.Close()
	}
}

func serve(connection net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(connection, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for opening := range channels {
		if opening.ChannelType() != "session" {
			opening.Reject(ssh.UnknownChannelType, "only sessions here")
			continue
		}
		if channel, requests, err := opening.Accept(); err == nil {
			go serveChannel(channel, requests)
		}
	}
}

func main() {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		log.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(signer)
	file, err := os.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		listener, err := net.Listen("tcp4", lines.Text())
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				go serve(connection, config)
			}
		}()
	}
	fmt.Println("listening")
	io.Copy(io.Discard, os.Stdin)
}
