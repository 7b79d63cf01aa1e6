package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/quic-go/quic-go"
)

var accepted atomic.Int64

func serve(folder string) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "server.pem"), filepath.Join(folder, "server.key"))
	if err != nil {
		return err
	}
	secure := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13}
	listener, err := quic.ListenAddr(host+":0", secure, config)
	if err != nil {
		return err
	}
	if err := tell(map[string]float64{"port": float64(listener.Addr().(*net.UDPAddr).Port)}); err != nil {
		return err
	}
	go obey()
	for {
		connection, err := listener.Accept(context.Background())
		if err != nil {
			return err
		}
		accepted.Add(1)
		go attend(connection)
	}
}

func attend(connection *quic.Conn) {
	for {
		stream, err := connection.AcceptStream(context.Background())
		if err != nil {
			return // A client that goes away is no news.
		}
		go answer(stream)
	}
}

func answer(stream *quic.Stream) {
	var wanted [head]byte
	if _, err := io.ReadFull(stream, wanted[:]); err != nil {
		return
	}
	if _, err := drain(stream); err != nil {
		return
	}
	_ = send(stream, binary.BigEndian.Uint64(wanted[:]))
}

// Reads to the end, and says how much there was.
func drain(stream *quic.Stream) (uint64, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	var count uint64
	for {
		size, err := stream.Read(*buffer)
		count += uint64(size)
		if err == io.EOF {
			return count, nil
		}
		if err != nil {
			return count, err
		}
	}
}

// For each line that comes, tells what was used; goes when standard input ends.
func obey() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var used syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
		_ = tell(map[string]float64{
			"accepted": float64(accepted.Load()),
			"memory":   resident(),
			"user":     seconds(used.Utime),
			"system":   seconds(used.Stime),
		})
	}
	os.Exit(0)
}

func seconds(time syscall.Timeval) float64 {
	return float64(time.Sec) + float64(time.Usec)/1e6
}

func resident() float64 {
	words, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.ParseFloat(strings.Fields(string(words))[1], 64)
	return pages * float64(os.Getpagesize())
}
