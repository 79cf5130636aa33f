// streamer is the client side of exec, attach and port-forward for the tests: of CRI's URLs and of kubelet's.
//
//	streamer exec|attach [-protocol spdy|v5|v4] [-stdin] [-tty] [-size WxH] URL
//	    a session with this process's streams; ends with the command's exit code, or with 125 and a sentence on stderr
//	streamer forward [-protocol spdy|tunnel] URL PORT...
//	    prints "Forwarding from 127.0.0.1:LOCAL -> PORT" for each, until its stdin ends
//	streamer drop [-kind exec|attach|forward] [-protocol spdy|v5] [-stdin] [-tty] [-quiet] [-streams=false]
//	    for each URL on stdin: opens it, waits for its first output (-quiet: only for the streams), cuts the connection,
//	    prints "dropped" or "failed: why". Lines are served at the same time
//	streamer measure [-protocol spdy|v5] [-port PORT] URL
//	    reads all stdout of an exec, or with -port all that a connection to it sends; prints bytes, sha256 and seconds
//	streamer hostile KIND URL
//	    what hostile.go says about KIND; prints "closed", "open" or "blocked", and how many bytes it could send
package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"

	"k8s.io/client-go/rest"
)

// failed is the exit code of a session that failed, as opposed to a command in it.
const failed = 125

// insecure: kubelet signs its certificate itself, and nothing here goes beyond loopback.
var insecure = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}

// options of all verbs; each reads those it has.
type options struct {
	kind, protocol, size       string
	stdin, tty, quiet, streams bool
	port                       int
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("a verb is missing: exec, attach, forward, drop, measure or hostile"))
	}
	verb := os.Args[1]
	var o options
	flags := flag.NewFlagSet(verb, flag.ExitOnError)
	flags.StringVar(&o.kind, "kind", "exec", "what the URLs are of: exec, attach or forward")
	flags.StringVar(&o.protocol, "protocol", "spdy", "spdy, v5 or v4 (WebSocket), or tunnel (SPDY in WebSocket)")
	flags.StringVar(&o.size, "size", "", "the terminal's, WIDTHxHEIGHT")
	flags.BoolVar(&o.stdin, "stdin", false, "send stdin")
	flags.BoolVar(&o.tty, "tty", false, "a terminal")
	flags.BoolVar(&o.quiet, "quiet", false, "do not wait for output")
	flags.BoolVar(&o.streams, "streams", true, "open streams at all")
	flags.IntVar(&o.port, "port", 0, "a port-forward's")
	_ = flags.Parse(os.Args[2:])
	var err error
	switch verb {
	case "exec", "attach":
		err = session(&o, flags.Arg(0))
	case "forward":
		err = forward(&o, flags.Args())
	case "drop":
		err = dropAll(&o)
	case "measure":
		err = measure(&o, flags.Arg(0))
	case "hostile":
		err = hostile(flags.Arg(0), flags.Arg(1))
	default:
		err = fmt.Errorf("unknown verb %q", verb)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(failed)
}

func parse(text string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if err == nil && parsed.Host == "" {
		err = fmt.Errorf("no URL: %q", text)
	}
	return parsed, err
}
