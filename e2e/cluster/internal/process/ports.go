package process

import (
	"fmt"
	"syscall"
)

// Port is a TCP port of the loopback address that is kept for this user's processes: bound, with SO_REUSEPORT, and not
// listened on. A child that binds it with SO_REUSEPORT too gets it, also after a restart; anything else gets another one.
// Choosing a port, closing it and hoping is what makes tests fail once in a while.
type Port struct {
	Number int
	socket int
}

// soReusePort is missing in package syscall for this platform.
const soReusePort = 0xf

// ReservePort reserves a port that is free.
func ReservePort() (*Port, error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	number, err := bindLoopback(socket)
	if err != nil {
		_ = syscall.Close(socket)
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	return &Port{Number: number, socket: socket}, nil
}

func bindLoopback(socket int) (int, error) {
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, soReusePort, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
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
