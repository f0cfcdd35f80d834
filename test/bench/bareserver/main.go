// Command bareserver is the yardstick of a start: it listens on two addresses, says so, and answers.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
)

func main() {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	ended := make(chan error)
	for _, name := range []string{"Client API", "Investor pages"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, "bareserver:", err)
			os.Exit(1)
		}
		go func() { ended <- http.Serve(l, answer) }()
		fmt.Printf("%s http://%s\n", name, l.Addr())
	}
	fmt.Fprintln(os.Stderr, "bareserver:", <-ended)
}
