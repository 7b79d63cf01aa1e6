// quic-go as it is, as a server and a client for benches/peers.py.
//
//	quic-go server FOLDER OPTIONS
//	quic-go client FOLDER PORT WORK COUNT OPTIONS
//
// FOLDER has the certificates. A client opens a stream, says in 8 bytes how many it wants, sends as many as it likes and
// finishes; the server answers with as many as were wanted. Its datagrams end at 1452 bytes whatever the path could
// carry, so there is nothing to set. It makes its sockets' buffers as large as its documentation advises, by itself.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/quic-go/quic-go"
)

const (
	alpn = "bench"
	host = "127.0.0.1"
	head = 8
	// What a request has in its first write, with the head.
	first = 1 << 14
)

var (
	content = make([]byte, 1<<18)
	config  = &quic.Config{}
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "quic-go:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "server":
		return serve(args[1])
	case len(args) == 6 && args[0] == "client":
		port, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		count, err := strconv.ParseUint(args[4], 10, 64)
		if err != nil {
			return err
		}
		dial, err := dialler(args[1], port)
		if err != nil {
			return err
		}
		return do(dial, args[3], count)
	}
	return errors.New("usage: quic-go server FOLDER OPTIONS | client FOLDER PORT WORK COUNT OPTIONS")
}

// Says one line of JSON.
func tell(figures map[string]float64) error {
	return json.NewEncoder(os.Stdout).Encode(figures)
}

// Sends so many bytes, and that these were all.
func send(stream *quic.Stream, count uint64) error {
	for count > 0 {
		piece := min(count, uint64(len(content)))
		if _, err := stream.Write(content[:piece]); err != nil {
			return err
		}
		count -= piece
	}
	return stream.Close()
}
