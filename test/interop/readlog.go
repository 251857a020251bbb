// Readlog reads a C2SP tile log with Go's own note and tlog packages and prints what it found as one JSON object.
// Everything is read and hashed: the checkpoint's signature, every entry of every bundle against the leaf hashes of
// level 0, and every tile against the root.
//
//	readlog VKEY URL
package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

type result struct {
	Origin string   `json:"origin"`
	Size   int64    `json:"size"`
	Root   string   `json:"root"`
	Leaves []string `json:"leaves"`
}

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: readlog VKEY URL"))
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
	fmt.Fprintln(os.Stderr, "readlog:", err)
	os.Exit(1)
}

func readLog(vkey, url string) (*result, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("vkey: %w", err)
	}
	signed, err := get(url + "/checkpoint")
	if err != nil {
		return nil, err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return nil, fmt.Errorf("checkpoint: not three lines of origin %q", verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: size: %w", err)
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return nil, fmt.Errorf("checkpoint: root: %w", err)
	}

	// TileHashReader authenticates every tile it reads against the root.
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles(url))
	found := &result{Origin: lines[0], Size: size, Root: base64.StdEncoding.EncodeToString(root[:])}
	for first := int64(0); first < size; first += 1 << tileHeight {
		width := min(size-first, 1<<tileHeight)
		indexes := make([]int64, width)
		for i := range indexes {
			indexes[i] = tlog.StoredHashIndex(0, first+int64(i))
		}
		hashes, err := reader.ReadHashes(indexes)
		if err != nil {
			return nil, fmt.Errorf("leaves from %d: %w", first, err)
		}
		bundle, err := get(url + "/tile/entries/" + tilePath(first>>tileHeight, width))
		if err != nil {
			return nil, err
		}
		for i, hash := range hashes {
			entry, rest, err := next(bundle)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", first+int64(i), err)
			}
			bundle = rest
			if tlog.RecordHash(entry) != hash {
				return nil, fmt.Errorf("entry %d: its hash is not in the tree", first+int64(i))
			}
			found.Leaves = append(found.Leaves, hex.EncodeToString(hash[:]))
		}
		if len(bundle) != 0 {
			return nil, fmt.Errorf("bundle from %d: %d bytes too many", first, len(bundle))
		}
	}
	return found, nil
}

func next(bundle []byte) (entry, rest []byte, err error) {
	if len(bundle) < 2 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	n := 2 + int(binary.BigEndian.Uint16(bundle))
	if len(bundle) < n {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return bundle[2:n], bundle[n:], nil
}

// tiles reads tiles over HTTP. The paths of tlog-tiles are those of tlog without the height.
type tiles string

func (url tiles) Height() int { return tileHeight }

func (url tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (url tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, 0, len(wanted))
	for _, tile := range wanted {
		path := fmt.Sprintf("%s/tile/%d/%s", string(url), tile.L, tilePath(tile.N, int64(tile.W)))
		bytes, err := get(path)
		if err != nil {
			return nil, err
		}
		data = append(data, bytes)
	}
	return data, nil
}

// tilePath is the N[.p/W] part of a path: https://c2sp.org/tlog-tiles#merkle-tree
func tilePath(n, width int64) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	if width < 1<<tileHeight {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

func get(url string) ([]byte, error) {
	response, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}
