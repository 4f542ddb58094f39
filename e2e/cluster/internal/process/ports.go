package process

import (
	"fmt"
	"net/netip"
	"syscall"
)

// Port is a TCP port of one address that is kept for this user's processes: bound, with SO_REUSEPORT, and not
// listened on. A child that binds it with SO_REUSEPORT too gets it, also after a restart; anything else gets another one.
// Choosing a port, closing it and hoping is what makes tests fail once in a while.
type Port struct {
	Number int
	socket int
}

// soReusePort is missing in package syscall for this platform.
const soReusePort = 0xf

// ReservePort reserves a port that is free at an address of this machine.
func ReservePort(address string) (*Port, error) {
	parsed, err := netip.ParseAddr(address)
	if err != nil || !parsed.Is4() {
		return nil, fmt.Errorf("reserving a port: %q is no IPv4 address", address)
	}
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	number, err := bindAny(socket, parsed.As4())
	if err != nil {
		_ = syscall.Close(socket)
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	return &Port{Number: number, socket: socket}, nil
}

func bindAny(socket int, address [4]byte) (int, error) {
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, soReusePort, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: address}); err != nil {
		return 0, err
	}
	name, err := syscall.Getsockname(socket)
	if err != nil {
		return 0, err
	}
	bound, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("bound to %T", name)
	}
	return bound.Port, nil
}

// Release gives the port back.
func (p *Port) Release() { _ = syscall.Close(p.socket) }
