package main

import (
	"fmt"
	"net"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

// version is the revision that this program was built from.
func version() string {
	revision, dirty, made := "of an unknown revision (built without version control: go build in a checkout notes it)", "", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		made = info.GoVersion
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = ", with changes that are in no revision"
			}
		}
	}
	return "sluis " + revision + dirty + ", " + made
}

// advice is what somebody reads who mistyped: what is wrong, the nearest word, and where all of them stand.
func advice(k *kong.Kong, args []string, err error) string {
	what, _, _ := strings.Cut(err.Error(), ", did you mean")
	what, _, _ = strings.Cut(what, "\n")
	lines := []string{"sluis: " + what}
	if near := nearest(k.Model.Node, args); near != "" {
		lines = append(lines, "Did you mean "+near+"?")
	}
	return strings.Join(append(lines, "sluis --help lists the commands, and sluis COMMAND --help explains one."), "\n")
}

// nearest looks for the first word that is no command or flag where it stands, and gives the one that looks most like it.
func nearest(at *kong.Node, args []string) string {
	flags := map[string]bool{"--help": true}
	note := func(n *kong.Node) {
		for _, f := range n.Flags {
			flags["--"+f.Name] = true
		}
	}
	note(at)
	if at.DefaultCmd != nil {
		note(at.DefaultCmd)
	}
	for i := 0; i < len(args); i++ {
		word, _, _ := strings.Cut(args[i], "=")
		if strings.HasPrefix(word, "-") {
			if !flags[word] {
				return closest(word, flags)
			}
			continue
		}
		commands := map[string]bool{}
		var next *kong.Node
		for _, child := range at.Children {
			commands[child.Name] = true
			if child.Name == word {
				next = child
			}
		}
		if next != nil {
			at = next
			note(at)
		} else if near := closest(word, commands); near != "" {
			return near
		}
	}
	return ""
}

// closest gives the word with the fewest changes, if they are few for its length.
func closest(word string, known map[string]bool) (best string) {
	least := len(word)/3 + 2
	for k := range known {
		if d := distance(word, k); d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to add, drop, change or exchange with their neighbour (Damerau and Levenshtein).
func distance(a, b string) int {
	before, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			changed := 1
			if a[i-1] == b[j-1] {
				changed = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+changed)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// exposed lists the addresses that others than this machine can reach.
func exposed(addresses ...string) (open []string) {
	for _, a := range addresses {
		host, _, err := net.SplitHostPort(a)
		if err != nil || a == "" {
			continue
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			open = append(open, a)
		}
	}
	return open
}

// warnOpen says loudly what it means to listen to others without TLS.
func warnOpen(open []string) string {
	if len(open) == 0 {
		return ""
	}
	bar := strings.Repeat("!", 100)
	return fmt.Sprintf("%s\nOTHERS CAN REACH %s, AND NOTHING THERE IS ENCRYPTED (no TLS).\n"+
		"API keys, investors' links and portfolios can be read on the way, and the page that seals passwords can be\n"+
		"exchanged for another. Listen on 127.0.0.1 and put a proxy in front that ends TLS.\n%[1]s\n",
		bar, strings.Join(open, ", "))
}
