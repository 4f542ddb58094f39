package process

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
)

func TestAReservedPortIsForThoseWhoShareIt(t *testing.T) {
	port, err := ReservePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Release()
	address := fmt.Sprintf("127.0.0.1:%d", port.Number)
	if other, err := net.Listen("tcp", address); err == nil {
		_ = other.Close()
		t.Error("a stranger can listen on it")
	}
	sharing := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1) })
	}}
	// Twice, as a component that is stopped and started again.
	for range 2 {
		listener, err := sharing.Listen(context.Background(), "tcp", address)
		if err != nil {
			t.Fatalf("who shares it cannot listen: %v", err)
		}
		go func() {
			if peer, err := listener.Accept(); err == nil {
				_ = peer.Close()
			}
		}()
		client, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("who listens is not reached: %v", err)
		}
		_ = client.Close()
		_ = listener.Close()
	}
}
