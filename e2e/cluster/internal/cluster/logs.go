package cluster

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
)

// tailBytes is how much of a log is looked at; quoted is how many lines of it are shown.
const (
	tailBytes = 64 << 10
	quoted    = 8
)

// QuoteLog is the last that a component said about what is wrong, for an error message.
func QuoteLog(path string) string {
	text, err := readTail(path)
	if err != nil {
		return fmt.Sprintf("its log cannot be read: %v", err)
	}
	lines := telling(string(text))
	if len(lines) == 0 {
		return "its log " + path + " is empty"
	}
	return "the last lines of its log " + path + ":\n    " + strings.Join(lines, "\n    ")
}

func readTail(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	skipped := max(0, info.Size()-tailBytes)
	if _, err := file.Seek(skipped, io.SeekStart); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(file)
	if skipped > 0 {
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	return text, err
}

// telling are the last lines that tell of errors, or else simply the last ones: a component that gives up may write its
// flags, or what all its threads were doing, after the one line that says why.
func telling(text string) []string {
	var lines, errors []string
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimRight(line, " \t\r"); line == "" {
			continue
		}
		lines = append(lines, line)
		if tellsOfError(line) {
			errors = append(errors, line)
		}
	}
	if len(errors) > 0 {
		lines = errors
	}
	return lines[max(0, len(lines)-quoted):]
}

func tellsOfError(line string) bool {
	for _, start := range []string{"Error", "error:", "panic:", "fatal error:"} {
		if strings.HasPrefix(line, start) {
			return true
		}
	}
	for _, level := range []string{"error", "fatal", "panic"} {
		if strings.Contains(line, `"level":"`+level+`"`) {
			return true
		}
	}
	// Kubernetes writes E1231 or F1231 and the time.
	return len(line) > 5 && (line[0] == 'E' || line[0] == 'F') && strings.Trim(line[1:5], "0123456789") == "" && line[5] == ' '
}
