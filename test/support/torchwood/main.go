// Torchwood-client reads a served log with filippo.io/torchwood's client, as a monitor does: the checkpoint against a policy
// in c2sp.org/tlog-policy form, every entry, and single entries with their proofs. Prints what it found as one JSON object.
//
//	torchwood-client POLICY URL
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

type result struct {
	Origin string   `json:"origin"`
	Size   int64    `json:"size"`
	Root   string   `json:"root"`
	Leaves []string `json:"leaves"`
	Proofs int      `json:"proofs"`
}

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: torchwood-client POLICY URL"))
	}
	found, err := readLog(os.Args[1], strings.TrimSuffix(os.Args[2], "/"))
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "torchwood-client:", err)
	os.Exit(1)
}

func readLog(policyFile, url string) (*result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	text, err := os.ReadFile(policyFile)
	if err != nil {
		return nil, err
	}
	policy, err := torchwood.ParsePolicy(text)
	if err != nil {
		return nil, err
	}
	fetcher, err := torchwood.NewTileFetcher(url)
	if err != nil {
		return nil, err
	}
	signed, err := fetcher.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		return nil, err
	}
	checkpoint, _, err := torchwood.VerifyCheckpoint(signed, policy)
	if err != nil {
		return nil, err
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		return nil, err
	}
	tree := checkpoint.Tree
	found := &result{Origin: checkpoint.Origin, Size: tree.N, Root: base64.StdEncoding.EncodeToString(tree.Hash[:])}
	// AllEntries also gives those of the last partial tile; each is checked against the tree.
	for _, entry := range client.AllEntries(ctx, tree, 0) {
		hash := tlog.RecordHash(entry)
		found.Leaves = append(found.Leaves, hex.EncodeToString(hash[:]))
	}
	if err := client.Err(); err != nil {
		return nil, err
	}
	for index := int64(0); index < tree.N; index += 97 {
		entry, proof, err := client.Entry(ctx, tree, index)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
			return nil, fmt.Errorf("entry %d: %w", index, err)
		}
		found.Proofs++
	}
	return found, nil
}
