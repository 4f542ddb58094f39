// Program mas-cluster is a whole Kubernetes in one file: called by the name of a component (as its first argument, or as the
// program's name) it is that component; otherwise it starts, shows and ends a cluster made of itself.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/component-base/version"

	"mas-cluster/internal/cluster"
	"mas-cluster/internal/commands"
	"mas-cluster/internal/node"
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
	if command == node.InitCommand {
		os.Exit(runNode(args))
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

// runNode is the first process of a node, whose specification is in a file.
func runNode(args []string) int {
	var spec node.Spec
	text, err := os.ReadFile(strings.Join(args, " "))
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err == nil {
		err = node.Init(spec)
	}
	fmt.Fprintf(os.Stderr, "Error: %v\n", err)
	return 1
}
