// Program mas-cluster is a whole Kubernetes in one file: called by the name of a component (as its first argument, or as the
// program's name) it is that component; otherwise it starts, shows and ends a cluster made of itself.
package main

import (
	"os"
	"path/filepath"

	"k8s.io/component-base/version"

	"mas-cluster/internal/cluster"
	"mas-cluster/internal/commands"
)

func main() {
	program := filepath.Base(os.Args[0])
	if run, ok := components[program]; ok {
		os.Exit(run())
	}
	if len(os.Args) < 2 {
		os.Args = append(os.Args, "--help")
	}
	command, args := os.Args[1], os.Args[2:]
	if command == cluster.SuperviseCommand {
		os.Exit(cluster.Supervise())
	}
	if run, ok := components[command]; ok {
		if command == "kubectl" {
			commands.ChooseCluster()
		}
		os.Args = os.Args[1:]
		os.Exit(run())
	}
	// A script that people call this program through says its own name.
	if name := os.Getenv("MAS_CLUSTER_COMMAND"); name != "" {
		program = name
	}
	// The version is set by the linker, for all components alike.
	os.Exit(commands.Environment{Program: program, Version: version.Get().GitVersion}.Run(command, args))
}
