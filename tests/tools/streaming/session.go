package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func executor(o *options, address string) (remotecommand.Executor, error) {
	parsed, err := parse(address)
	if err != nil {
		return nil, err
	}
	switch o.protocol {
	case "spdy":
		return remotecommand.NewSPDYExecutor(insecure, "POST", parsed)
	case "v4", "v5":
		return remotecommand.NewWebSocketExecutorForProtocols(insecure, "GET", address, o.protocol+".channel.k8s.io")
	default:
		return nil, fmt.Errorf("exec and attach have no protocol %q", o.protocol)
	}
}

// once is a terminal that never changes its size.
type once chan *remotecommand.TerminalSize

func (o once) Next() *remotecommand.TerminalSize { return <-o }

func session(o *options, address string) error {
	e, err := executor(o, address)
	if err != nil {
		return err
	}
	streams := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: o.tty}
	if o.stdin {
		streams.Stdin = os.Stdin
	}
	if !o.tty {
		streams.Stderr = os.Stderr
	}
	if o.size != "" {
		var size remotecommand.TerminalSize
		if _, err := fmt.Sscanf(o.size, "%dx%d", &size.Width, &size.Height); err != nil {
			return fmt.Errorf("-size %q: %w", o.size, err)
		}
		sizes := make(once, 1)
		sizes <- &size
		streams.TerminalSizeQueue = sizes
	}
	err = e.StreamWithContext(context.Background(), streams)
	var exit exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		os.Exit(exit.ExitStatus())
	}
	return err
}

func dialer(o *options, address string) (httpstream.Dialer, error) {
	parsed, err := parse(address)
	if err != nil {
		return nil, err
	}
	switch o.protocol {
	case "spdy":
		transport, upgrader, err := spdy.RoundTripperFor(insecure)
		if err != nil {
			return nil, err
		}
		return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", parsed), nil
	case "tunnel":
		return portforward.NewSPDYOverWebsocketDialer(parsed, insecure)
	default:
		return nil, fmt.Errorf("port-forward has no protocol %q", o.protocol)
	}
}

func forward(o *options, arguments []string) error {
	if len(arguments) < 2 {
		return errors.New("forward URL PORT...")
	}
	d, err := dialer(o, arguments[0])
	if err != nil {
		return err
	}
	ports := make([]string, 0, len(arguments))
	for _, port := range arguments[1:] {
		ports = append(ports, "0:"+port)
	}
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	p, err := portforward.NewOnAddresses(d, []string{"127.0.0.1"}, ports, stop, make(chan struct{}), os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return p.ForwardPorts()
}

// tally counts and hashes.
type tally struct {
	hash  hash.Hash
	bytes int64
}

func (t *tally) Write(p []byte) (int, error) {
	t.bytes += int64(len(p))
	return t.hash.Write(p)
}

func measure(o *options, address string) error {
	t := &tally{hash: sha256.New()}
	start := time.Now()
	var err error
	if o.port == 0 {
		var e remotecommand.Executor
		if e, err = executor(o, address); err == nil {
			err = e.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdout: t})
		}
	} else {
		err = receive(o, address, t)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"bytes": t.bytes, "sha256": hex.EncodeToString(t.hash.Sum(nil)), "seconds": time.Since(start).Seconds(),
	})
}

// receive reads one forwarded connection to its end, straight from its streams: a listener in between would cost as much
// as the server.
func receive(o *options, address string, to io.Writer) error {
	d, err := dialer(o, address)
	if err != nil {
		return err
	}
	connection, _, err := d.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	headers := http.Header{}
	headers.Set("streamType", "error")
	headers.Set("port", fmt.Sprint(o.port))
	headers.Set("requestID", "0")
	fault, err := connection.CreateStream(headers)
	if err != nil {
		return err
	}
	_ = fault.Close()
	headers.Set("streamType", "data")
	data, err := connection.CreateStream(headers)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, data); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	// As kubectl does: the connection is over when both halves of it are.
	_ = data.Reset()
	if text, _ := io.ReadAll(fault); len(text) > 0 {
		return errors.New(string(text))
	}
	return nil
}
