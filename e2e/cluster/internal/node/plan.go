// Package node makes the nodes of a cluster on one machine. A node is one process in process, mount and network namespaces of
// its own, with containerd, kubelet, kube-proxy and CoreDNS below it: when that process ends, the kernel ends all that it started, pods
// too, and with the last of them go its mounts and its network. What is left then is a bridge, cgroups and files.
package node

import (
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strings"
)

// Plan is what a cluster's nodes and their network are called. It is on record before anything is made, so that what a killed
// supervisor left is found again.
type Plan struct {
	ID      string   `json:"id"`      // part of the names of the bridge and the cgroups
	Network int      `json:"network"` // the second number of all addresses
	Names   []string `json:"names"`
	Regions []string `json:"regions"`
}

// NewPlan plans the nodes node-1 and so on of the cluster in a folder. Each is a region of its own: those named, and region-N.
func NewPlan(dir string, count int, regions []string) Plan {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(dir))
	sum := hash.Sum32()
	// 10.96.0.0/16 are the services; 10.0 to 10.127 are what people's own networks mostly have.
	plan := Plan{ID: fmt.Sprintf("mas%06x", sum&0xffffff), Network: 128 + int(sum>>24)%128}
	for i := range count {
		plan.Names = append(plan.Names, fmt.Sprintf("node-%d", i+1))
		region := fmt.Sprintf("region-%d", i+1)
		if i < len(regions) {
			region = regions[i]
		}
		plan.Regions = append(plan.Regions, region)
	}
	return plan
}

// Avoid chooses another network if this machine has one of these addresses in it already, as another cluster's bridge has.
func (p *Plan) Avoid(addresses []net.Addr) {
	for range 128 {
		taken := slices.ContainsFunc(addresses, func(address net.Addr) bool {
			return strings.HasPrefix(address.String(), fmt.Sprintf("10.%d.", p.Network))
		})
		if !taken {
			return
		}
		p.Network = 128 + (p.Network+1)%128
	}
}

// Bridge is the network device that connects the nodes with each other and with this machine.
func (p Plan) Bridge() string { return p.ID }

// Veth is this machine's end of a node's cable.
func (p Plan) Veth(i int) string { return fmt.Sprintf("%s-%d", p.ID, i+1) }

// Host is this machine's address as the nodes see it.
func (p Plan) Host() string { return fmt.Sprintf("10.%d.0.1", p.Network) }

// Address is a node's address.
func (p Plan) Address(i int) string { return fmt.Sprintf("10.%d.0.%d", p.Network, i+11) }

// PodRange has the addresses of a node's pods.
func (p Plan) PodRange(i int) string { return fmt.Sprintf("10.%d.%d.0/24", p.Network, i+1) }

// AllPods has the addresses of all pods, and of the nodes.
func (p Plan) AllPods() string { return fmt.Sprintf("10.%d.0.0/16", p.Network) }

// Cgroup is the parent of the cgroups of a node's pods. Kubelets that share one end each other's pods.
func (p Plan) Cgroup(i int) string { return "/" + p.ID + "/" + p.Names[i] }
