// Command sluis is every function in one process, on one machine, with nothing else installed; and the operator's
// commands on the same data.
//
//	sluis                 start everything and print the addresses to open
//	sluis demo            run every sandbox journey without a browser
//	sluis client, key     add clients, issue and revoke their API keys
//	sluis status          how many documents there are, and what is waiting
//	sluis dead-letters    list events that were given up, and put them back
//	sluis audit           export the audit entries
//	sluis secret, rotate  custodians' API credentials; new encryption keys
//	sluis versions        which versions of keys are still needed; re-wrap what older ones closed; disable one
//	sluis backup, restore copy everything while it runs; put a copy in place
//	sluis verify          look whether everything that is named exists and opens
//	sluis flow            draw the pipeline
//
// It ends with 0 if all is well, 1 if a command failed, and 2 if it was not understood.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"sluis.internal/shared/observe"
)

// options stand before every command.
type options struct {
	Data     string           `help:"Directory of the database and the local keys. Default: sluis-data; demo uses a new one and removes it afterwards." env:"SLUIS_DATA"`
	Backend  string           `help:"Where documents are stored: sqlite:PATH on this machine, or gcp:PROJECT[/DATABASE] in Google Cloud, with the keys that the environment names. Default: sluis.db in the data directory." env:"SLUIS_BACKEND"`
	Shards   string           `help:"Directory of the shards, without which no sealed document can be opened. Default: shards in the data directory. Keep it out of backups of the database." env:"SLUIS_SHARDS" placeholder:"DIR"`
	Version  kong.VersionFlag `help:"Print the revision that this program was built from." env:"-"`
	LogLevel string           `help:"How much to log: debug, info, warn or error. Default: warn; error for demo, whose banks fail on purpose." default:"" enum:",debug,info,warn,error" env:"SLUIS_LOG_LEVEL"`
}

// data is the directory that everything lies in.
func (o *options) data() string {
	if o.Data == "" {
		return "sluis-data"
	}
	return o.Data
}

type commands struct {
	options
	Serve       serveCommand       `cmd:"" default:"withargs" help:"Start everything and print the addresses to open."`
	Demo        demoCommand        `cmd:"" help:"Run every sandbox journey without a browser."`
	Client      clientCommands     `cmd:"" help:"Manage clients: the wealth managers and apps that may ask for consents."`
	Key         keyCommands        `cmd:"" help:"Manage the API keys of a client."`
	Access      accessCommands     `cmd:"" help:"Show logins at banks and how close each is to being locked; release one that rests."`
	Status      statusCommand      `cmd:"" help:"Show how many documents there are and what is waiting."`
	DeadLetters deadLetterCommands `cmd:"" name:"dead-letters" help:"Show or retry events that were given up."`
	Audit       auditCommand       `cmd:"" help:"Export audit entries as CloudEvents, one JSON object per line."`
	Secret      secretCommands     `cmd:"" help:"Set the API credentials that custodians gave you."`
	Rotate      rotateCommand      `cmd:"" help:"Make a new version of a key. What older versions encrypted can still be read."`
	Versions    versionCommands    `cmd:"" help:"Show the versions of encryption keys and what still needs them."`
	Backup      backupCommand      `cmd:"" help:"Copy database and keys into a new folder, beside a running server."`
	Restore     restoreCommand     `cmd:"" help:"Fill an empty data directory from a backup."`
	Verify      verifyCommand      `cmd:"" help:"Check that everything that is named exists and can be opened. It reads all of it."`
	Flow        flowCommand        `cmd:"" help:"Draw the pipeline as a Mermaid flowchart."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c commands
	parser := kong.Must(&c, kong.Name("sluis"), kong.Description("Account information with the investor's consent: consent, seal, read, deliver, erase."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.BindTo(ctx, (*context.Context)(nil)), kong.Vars{"version": version()})
	parsed, err := parser.Parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, advice(parser, os.Args[1:], err))
		stop()
		os.Exit(2)
	}
	slog.SetDefault(slog.New(observe.Requests(slog.NewJSONHandler(os.Stderr,
		&slog.HandlerOptions{Level: level(c.LogLevel, parsed.Command()), ReplaceAttr: cloudNames}))))
	if err := withoutCore(); err != nil {
		slog.Warn(err.Error())
	}
	if err := parsed.Run(&c.options); err != nil {
		fmt.Fprintln(os.Stderr, "sluis: "+err.Error())
		stop()
		os.Exit(1)
	}
}

// level is the one named, or what suits the command.
func level(name, command string) slog.Level {
	var l slog.Level
	switch {
	case l.UnmarshalText([]byte(name)) == nil:
		return l
	case command == "demo":
		return slog.LevelError
	}
	return slog.LevelWarn
}

// cloudNames gives log lines the member names that Cloud Logging reads: severity, message, timestamp.
func cloudNames(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.LevelKey:
		a.Key = "severity"
		if a.Value.String() == "WARN" {
			a.Value = slog.StringValue("WARNING")
		}
	case slog.MessageKey:
		a.Key = "message"
	case slog.TimeKey:
		a.Key = "timestamp"
	}
	return a
}
