// A server and a client over HTTP/3 that are quic-go and nothing else. The client is moved by hand, with Probe and Switch.
//
//	quic-go server ADDRESS:PORT CERTIFICATE KEY FOLDER
//	quic-go client URL AUTHORITY OUTPUT SOURCE      then an address to move to on each line of standard input
//
// OUTPUT may be a pipe. What is done is told line by line: listening, connected, moved ADDRESS.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// How long a network may take to answer a probe.
const patience = 5 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "quic-go:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 5 {
		return errors.New("usage: quic-go server ADDRESS:PORT CERTIFICATE KEY FOLDER | client URL AUTHORITY OUTPUT SOURCE")
	}
	switch args[0] {
	case "server":
		return serve(args[1], args[2], args[3], args[4])
	case "client":
		return download(args[1], args[2], args[3], args[4])
	}
	return fmt.Errorf("what is %q?", args[0])
}

func serve(address, certificate, key, folder string) error {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	config := http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}})
	listener, err := quic.ListenAddrEarly(address, config, nil)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	return (&http3.Server{Handler: http.FileServer(http.Dir(folder))}).ServeListener(listener)
}

func download(from, authority, output, source string) error {
	connection, err := connect(from, authority, source)
	if err != nil {
		return err
	}
	defer connection.CloseWithError(0, "")
	fmt.Println("connected")
	go obey(connection)
	request, err := http.NewRequest(http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	response, err := (&http3.Transport{}).NewClientConn(connection).RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	file, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, response.Body); err != nil {
		return err
	}
	return file.Close()
}

func connect(to, authority, source string) (*quic.Conn, error) {
	where, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	peer, err := netip.ParseAddrPort(where.Host)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport, err := bound(source)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: roots, ServerName: peer.Addr().String(), NextProtos: []string{http3.NextProtoH3}}
	return transport.Dial(context.Background(), net.UDPAddrFromAddrPort(peer), config, nil)
}

// Moves to the address on each line. A move that fails is told; the transfer says what that meant.
func obey(connection *quic.Conn) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := move(connection, lines.Text()); err != nil {
			fmt.Fprintln(os.Stderr, "quic-go: cannot move:", err)
			continue
		}
		fmt.Println("moved", lines.Text())
	}
}

func move(connection *quic.Conn, source string) error {
	// Transports that were left stay open: closing one would end the connection that began there.
	transport, err := bound(source)
	if err != nil {
		return err
	}
	path, err := connection.AddPath(transport)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(connection.Context(), patience)
	defer cancel()
	if err := path.Probe(ctx); err != nil {
		return err
	}
	return path.Switch()
}

func bound(source string) (*quic.Transport, error) {
	address, err := netip.ParseAddr(source)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
	if err != nil {
		return nil, err
	}
	return &quic.Transport{Conn: socket}, nil
}
