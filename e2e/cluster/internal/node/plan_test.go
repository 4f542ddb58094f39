package node

import (
	"archive/tar"
	"bytes"
	"io"
	"net"
	"testing"
)

func TestNamesFitTheKernelAndAddressesDoNotMeetServices(t *testing.T) {
	for _, dir := range []string{"/a", "/b", "/a/very/long/folder/name/that/says/nothing"} {
		plan := NewPlan(dir, 9, nil)
		if len(plan.Veth(8)) > 15 {
			t.Errorf("%s: %s is too long for a network device", dir, plan.Veth(8))
		}
		if plan.Network < 128 || plan.Network > 255 {
			t.Errorf("%s: network 10.%d", dir, plan.Network)
		}
		if plan.Address(0) == plan.Host() || plan.PodRange(0) == plan.PodRange(1) {
			t.Errorf("%s: one address twice", dir)
		}
	}
}

func TestTwoClustersHaveTwoNetworks(t *testing.T) {
	first := NewPlan("/a", 1, nil)
	second := first
	second.Avoid([]net.Addr{&net.IPNet{IP: net.ParseIP(first.Host()), Mask: net.CIDRMask(24, 32)}})
	if second.Network == first.Network || second.Network < 128 || second.Network > 255 {
		t.Errorf("%d and %d", first.Network, second.Network)
	}
	last := Plan{Network: 255}
	last.Avoid([]net.Addr{&net.IPNet{IP: net.IPv4(10, 255, 0, 1), Mask: net.CIDRMask(24, 32)}})
	if last.Network != 128 {
		t.Errorf("after 255 comes %d", last.Network)
	}
}

func TestAnImageHoldsItsProgram(t *testing.T) {
	image, err := Image("localhost/x:1", []byte("the program"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for reader := tar.NewReader(bytes.NewReader(image)); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name], _ = io.ReadAll(reader)
	}
	layer := tar.NewReader(bytes.NewReader(found["layer.tar"]))
	header, err := layer.Next()
	if err != nil || header.Name != "program" || header.Mode != 0o755 {
		t.Fatalf("%+v, %v", header, err)
	}
	if len(found["manifest.json"]) == 0 || len(found["config.json"]) == 0 {
		t.Errorf("no manifest or no configuration")
	}
}
