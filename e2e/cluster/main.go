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
	// A script that people call this program through says its own name; the linker sets the version, for all components alike.
	environment := commands.Environment{Program: program, Version: version.Get().GitVersion}
	if name := os.Getenv("MAS_CLUSTER_COMMAND"); name != "" {
		environment.Program = name
	}
	if run, ok := components[command]; ok {
		if command == "kubectl" {
			environment.ChooseCluster()
		}
		os.Args = os.Args[1:]
		os.Exit(run())
	}
	os.Exit(environment.Run(command, args))
}
