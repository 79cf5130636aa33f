package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/moby/spdystream"
)

// patience with a server that does not answer.
const patience = 60 * time.Second

func dropAll(o *options) error {
	var running sync.WaitGroup
	var printing sync.Mutex
	lines := bufio.NewScanner(os.Stdin)
	for number := 0; lines.Scan(); number++ {
		address := lines.Text()
		running.Go(func() {
			err := drop(o, address, number%2 == 0)
			printing.Lock()
			defer printing.Unlock()
			if err != nil {
				fmt.Println("failed:", err)
			} else {
				fmt.Println("dropped")
			}
		})
	}
	running.Wait()
	return lines.Err()
}

// drop opens a session and cuts it: with a reset, as when a node dies, or with an end, as when a process does.
func drop(o *options, address string, reset bool) error {
	parsed, err := parse(address)
	if err != nil {
		return err
	}
	var connection net.Conn
	if o.protocol == "spdy" {
		connection, err = startSPDY(o, parsed)
	} else {
		connection, err = startWebSocket(o, parsed)
	}
	if connection != nil {
		if reset {
			_ = connection.(*net.TCPConn).SetLinger(0)
		}
		_ = connection.Close()
	}
	return err
}

// read is a connection of which some was read already.
type read struct {
	net.Conn
	reader *bufio.Reader
}

func (r read) Read(p []byte) (int, error) { return r.reader.Read(p) }

// upgrade asks for SPDY; the connection itself, and the one to read from.
func upgrade(parsed *url.URL, protocol string) (net.Conn, read, error) {
	connection, err := net.Dial("tcp", parsed.Host)
	if err != nil {
		return nil, read{}, err
	}
	_ = connection.SetDeadline(time.Now().Add(patience))
	request, err := http.NewRequest("POST", parsed.String(), nil)
	if err != nil {
		return connection, read{}, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "SPDY/3.1")
	request.Header.Set("X-Stream-Protocol-Version", protocol)
	if err := request.Write(connection); err != nil {
		return connection, read{}, err
	}
	reader := bufio.NewReader(connection)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return connection, read{}, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return connection, read{}, fmt.Errorf("answered %s", response.Status)
	}
	return connection, read{connection, reader}, nil
}

func startSPDY(o *options, parsed *url.URL) (net.Conn, error) {
	protocol := "v4.channel.k8s.io"
	if o.kind == "forward" {
		protocol = "portforward.k8s.io"
	}
	connection, upgraded, err := upgrade(parsed, protocol)
	if err != nil || !o.streams {
		return connection, err
	}
	session, err := spdystream.NewConnection(upgraded, false)
	if err != nil {
		return connection, err
	}
	go session.Serve(spdystream.NoOpStreamHandler)
	kinds := []string{"error", "stdout"}
	if o.stdin {
		kinds = append(kinds, "stdin")
	}
	if o.tty {
		kinds = append(kinds, "resize")
	} else {
		kinds = append(kinds, "stderr")
	}
	if o.kind == "forward" {
		kinds = []string{"error", "data"}
	}
	streams := map[string]*spdystream.Stream{}
	for _, kind := range kinds {
		headers := http.Header{"Streamtype": {kind}}
		if o.kind == "forward" {
			headers["Port"], headers["Requestid"] = []string{fmt.Sprint(o.port)}, []string{"0"}
		}
		if streams[kind], err = session.CreateStream(headers, nil, false); err != nil {
			return connection, err
		}
	}
	for kind, stream := range streams {
		if err := stream.WaitTimeout(patience); err != nil {
			return connection, fmt.Errorf("the %s stream: %w", kind, err)
		}
	}
	if o.quiet || o.kind == "forward" {
		return connection, nil
	}
	_, err = streams["stdout"].Read(make([]byte, 1))
	return connection, err
}

func startWebSocket(o *options, parsed *url.URL) (net.Conn, error) {
	address := *parsed
	address.Scheme = "ws"
	dialer := websocket.Dialer{Subprotocols: []string{o.protocol + ".channel.k8s.io"}, HandshakeTimeout: patience}
	connection, _, err := dialer.Dial(address.String(), nil)
	if err != nil {
		return nil, err
	}
	_ = connection.SetReadDeadline(time.Now().Add(patience))
	for !o.quiet {
		_, message, err := connection.ReadMessage()
		if err != nil {
			return connection.NetConn(), err
		}
		// Channel 1 is stdout; empty messages open the channels.
		if len(message) > 1 && message[0] == 1 {
			break
		}
	}
	return connection.NetConn(), nil
}
