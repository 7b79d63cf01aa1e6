package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	warmUp = 50
	// Exchanges under way at once, and the bytes each way of one of them.
	streams = 100
	small   = 1024
)

var buffers = sync.Pool{New: func() any {
	buffer := make([]byte, 1<<16)
	return &buffer
}}

// Makes connections over one socket, each with a full handshake.
func dialler(folder string, port int) (func() (*quic.Conn, error), error) {
	pem, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(host)})
	if err != nil {
		return nil, err
	}
	transport := &quic.Transport{Conn: socket}
	secure := &tls.Config{RootCAs: roots, ServerName: host, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13}
	server := &net.UDPAddr{IP: net.ParseIP(host), Port: port}
	return func() (*quic.Conn, error) {
		return transport.Dial(context.Background(), server, secure, config)
	}, nil
}

func exchange(connection *quic.Conn, up, down uint64) error {
	stream, err := connection.OpenStreamSync(context.Background())
	if err != nil {
		return err
	}
	ahead := min(up, first)
	request := make([]byte, head+ahead)
	binary.BigEndian.PutUint64(request, down)
	if _, err := stream.Write(request); err != nil {
		return err
	}
	if err := send(stream, up-ahead); err != nil {
		return err
	}
	count, err := drain(stream)
	if err == nil && count != down {
		err = fmt.Errorf("%d bytes came, not %d", count, down)
	}
	return err
}

// Does what a client is to do, and tells the figures: the same as programs/_work.py.
func do(dial func() (*quic.Conn, error), work string, count uint64) error {
	switch work {
	case "handshakes":
		watch := newWatch()
		for range count {
			connection, err := dial()
			if err != nil {
				return err
			}
			_ = connection.CloseWithError(0, "")
		}
		return watch.tell(nil)
	case "first":
		var all float64
		for range count {
			began := time.Now()
			connection, err := dial()
			if err != nil {
				return err
			}
			if err := exchange(connection, 1, 1); err != nil {
				return err
			}
			all += time.Since(began).Seconds()
			_ = connection.CloseWithError(0, "")
		}
		return tell(map[string]float64{"seconds": all})
	case "idle":
		for range count {
			if _, err := dial(); err != nil {
				return err
			}
		}
		_ = tell(map[string]float64{"connections": float64(count)})
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	connection, err := dial()
	if err != nil {
		return err
	}
	if err := exchange(connection, 1, 1); err != nil {
		return err
	}
	defer connection.CloseWithError(0, "")
	return onOne(connection, work, count)
}

func onOne(connection *quic.Conn, work string, count uint64) error {
	watch := newWatch()
	var err error
	switch work {
	case "download":
		err = exchange(connection, 0, count)
	case "upload":
		err = exchange(connection, count, 1)
	case "ping":
		return ping(connection, count)
	case "streams":
		err = concurrently(connection, count)
	default:
		return fmt.Errorf("what is %q?", work)
	}
	if err != nil {
		return err
	}
	return watch.tell(nil)
}

func concurrently(connection *quic.Conn, count uint64) error {
	results := make(chan error, streams)
	for number := range uint64(streams) {
		each := count / streams
		if number < count%streams {
			each++
		}
		go func() {
			var err error
			for ; each > 0 && err == nil; each-- {
				err = exchange(connection, small, small)
			}
			results <- err
		}()
	}
	var all error
	for range streams {
		all = errors.Join(all, <-results)
	}
	return all
}

func ping(connection *quic.Conn, count uint64) error {
	for range warmUp {
		if err := exchange(connection, 1, 1); err != nil {
			return err
		}
	}
	times := make([]float64, count)
	watch := newWatch()
	for index := range times {
		began := time.Now()
		if err := exchange(connection, 1, 1); err != nil {
			return err
		}
		times[index] = time.Since(began).Seconds()
	}
	slices.Sort(times)
	return watch.tell(map[string]float64{"p50": times[len(times)/2], "p99": times[len(times)*99/100]})
}

// Seconds, and processor seconds of this process with all its threads.
type watch struct {
	began time.Time
	used  float64
}

func newWatch() watch {
	return watch{time.Now(), used()}
}

func (w watch) tell(more map[string]float64) error {
	figures := map[string]float64{"seconds": time.Since(w.began).Seconds(), "cpu": used() - w.used}
	for name, value := range more {
		figures[name] = value
	}
	return tell(figures)
}

func used() float64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return seconds(usage.Utime) + seconds(usage.Stime)
}
