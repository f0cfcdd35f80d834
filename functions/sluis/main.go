// Command sluis is every function in one process, on one machine, with nothing else installed; and the operator's
// commands on the same data.
//
//	sluis                 start everything and print the addresses to open
//	sluis demo            run every sandbox journey without a browser
//	sluis client, key     add clients, issue and revoke their API keys
//	sluis status          how much lies in the database, and what waits
//	sluis dead-letters    list events that were given up, and put them back
//	sluis audit           export the audit entries
//	sluis secret, rotate  custodians' API credentials; new encryption keys
//	sluis versions        which versions of keys are still needed; re-wrap what older ones closed; disable one
//	sluis flow            draw the pipeline
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"sluis.internal/functions/erase"
	"sluis.internal/functions/sluis/home"
)

// options stand before every command.
type options struct {
	Data        string        `help:"Directory of the database and the local keys: sluis-data if left out; for demo a new one that is removed afterwards." env:"SLUIS_DATA"`
	Backend     string        `help:"Where everything lies: sqlite:PATH on this machine, or gcp:PROJECT[/DATABASE] in Google Cloud, with the keys that the environment names. Empty means sluis.db in the data directory." env:"SLUIS_BACKEND"`
	Shards      string        `help:"Directory of the shards, without which no sealed document opens: shards in the data directory if left out. Keep it out of backups of the database." env:"SLUIS_SHARDS" placeholder:"DIR"`
	Backups     time.Duration `help:"How long you keep backups of the database, as certificates of erasure say; left out, they say that Sluis does not know." env:"SLUIS_BACKUPS"`
	ShardCopies time.Duration `name:"shard-copies" help:"How long you keep copies of the shards, apart from backups; certificates of erasure say that until then what was erased can be read. Left out: you keep none." env:"SLUIS_SHARD_COPIES"`
	LogLevel    string        `help:"debug, info, warn or error; warn if left out, and error for demo, whose banks fail on purpose." default:"" enum:",debug,info,warn,error" env:"SLUIS_LOG_LEVEL"`
}

// settings are where everything lies.
func (o *options) settings() home.Settings {
	return home.Settings{Data: o.data(), Backend: o.Backend, Shards: o.Shards, Copies: erase.Copies{Backups: o.Backups, Shards: o.ShardCopies}}
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
	Client      clientCommands     `cmd:"" help:"Clients: wealth managers and apps that may ask for consents."`
	Key         keyCommands        `cmd:"" help:"API keys of a client."`
	Status      statusCommand      `cmd:"" help:"How much lies in the database, and what waits."`
	DeadLetters deadLetterCommands `cmd:"" name:"dead-letters" help:"Events that were given up."`
	Audit       auditCommand       `cmd:"" help:"Export the audit entries as CloudEvents, one JSON object a line."`
	Secret      secretCommands     `cmd:"" help:"Custodians' API credentials."`
	Rotate      rotateCommand      `cmd:"" help:"Make a new version of a key; older ones still open what they closed."`
	Versions    versionCommands    `cmd:"" help:"Versions of the encryption keys, and what still needs them."`
	Flow        flowCommand        `cmd:"" help:"Draw the pipeline as a Mermaid flowchart."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c commands
	parsed := kong.Parse(&c, kong.Name("sluis"), kong.Description("Account information with the investor's consent: consent, seal, read, deliver, erase."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.BindTo(ctx, (*context.Context)(nil)))
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level(c.LogLevel, parsed.Command()), ReplaceAttr: cloudNames})))
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
