// Command tesseraposix measures how many entries a second Tessera's POSIX driver takes durably, embedded as a library:
// the peer that bench:log runs in turn with the exporter. Prints one JSON object.
//
// Adders run closed-loop: each waits for its entry's index, which the driver gives only when bundle, tiles and tree state
// are on disk. What is measured begins after the warm-up; CPU is that of the whole process, adders and all: what they do
// beside calling Add is a copy of 300 bytes.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"flag"
	"log"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

var (
	dir      = flag.String("dir", "", "empty directory for the log")
	adders   = flag.Int("adders", 1024, "entries in flight")
	batch    = flag.Uint("batch", 256, "entries a batch at most")
	entry    = flag.Int("entry", 300, "bytes an entry")
	warm     = flag.Duration("warmup", 3*time.Second, "not measured")
	duration = flag.Duration("duration", 10*time.Second, "measured")
)

type result struct {
	EntriesPerSecond float64 `json:"entriesPerSecond"`
	CPUPerEntryUs    float64 `json:"cpuPerEntryUs"`
	AckP50Ms         float64 `json:"ackP50Ms"`
	AckP99Ms         float64 `json:"ackP99Ms"`
}

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	skey, _, err := note.GenerateKey(rand.Reader, "example.com/tesseraposix")
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: *dir})
	if err != nil {
		return err
	}
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(time.Second).
		WithBatching(*batch, time.Second).
		WithPushback(65536)
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		return err
	}
	var done atomic.Uint64
	var measuring, stop atomic.Bool
	waits := make([][]float64, *adders)
	var running sync.WaitGroup
	for adder := range *adders {
		running.Go(func() {
			bytes := make([]byte, *entry)
			_, _ = rand.Read(bytes)
			for n := uint64(0); !stop.Load(); n++ {
				mine := slices.Clone(bytes)
				binary.BigEndian.PutUint64(mine, uint64(adder)<<40|n)
				began := time.Now()
				if _, err := appender.Add(ctx, tessera.NewEntry(mine))(); err != nil {
					time.Sleep(time.Millisecond) // pushed back
					continue
				}
				done.Add(1)
				if measuring.Load() {
					waits[adder] = append(waits[adder], float64(time.Since(began).Microseconds())/1000)
				}
			}
		})
	}
	time.Sleep(*warm)
	measuring.Store(true)
	entries, used, began := done.Load(), cpu(), time.Now()
	time.Sleep(*duration)
	entries, used = done.Load()-entries, cpu()-used
	seconds := time.Since(began).Seconds()
	measuring.Store(false)
	stop.Store(true)
	running.Wait()
	if err := shutdown(ctx); err != nil {
		return err
	}
	all := slices.Concat(waits...)
	slices.Sort(all)
	return json.NewEncoder(os.Stdout).Encode(result{
		EntriesPerSecond: float64(entries) / seconds,
		CPUPerEntryUs:    float64(used.Microseconds()) / float64(entries),
		AckP50Ms:         all[len(all)/2],
		AckP99Ms:         all[len(all)*99/100],
	})
}

func cpu() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
