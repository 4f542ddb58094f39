package commands

// help tells all there is, for people who read it once.
const help = `A real Kubernetes cluster for tests, on this machine alone: no Docker, no image registry, no network.

  up          Start a cluster, or say that it runs; returns when it is ready (some 5-10 s)
  status      What runs (exit code 0: all of it is ready)
  down        End the cluster and remove all of its files
  kubectl     kubectl, for $KUBECONFIG if that is set, and otherwise for the cluster "dev"
  kubeconfig  Print a kubeconfig for another user, to test with that user's rights alone
  stop, start COMPONENT   End one component (or node) of a running cluster, start it again
  cut, heal NODE          Pull a node's cable, plug it in again
  load FILE               Give all nodes the image in FILE (as docker save writes it)

Every command but kubectl takes
  --name NAME            which cluster is meant (dev)
  --dir DIR              its folder, new or empty (${XDG_STATE_HOME:-~/.local/state}/multiactive-clusters/NAME)

up takes
  --nodes N              with N nodes, node-1 in region-1 and so on (0: pods stay Pending; needs root and containerd)
  --regions A,B          the nodes' regions have these names, in their order
  --foreground           stay; Ctrl-C ends the cluster
  --owner-pid PID        the cluster ends when this process has ended, however it ended
  --lifetime SECONDS     the cluster ends by itself after this time
  --audit                write one line for every request to the API server into audit.log in the folder of logs
  --apiserver-arg ARG    a further argument of kube-apiserver, as --apiserver-arg=--v=4 (may be repeated)
  --logs DIR             a folder for the logs that is kept (otherwise they are in the cluster's folder and go with it)
  --timeout SECONDS      how long it may take until everything is ready (120)

cut takes
  --peers                cut the node off from the other nodes alone; this machine and the API server are still reached

kubeconfig takes
  --user NAME            the user's name
  --group GROUP          a group that the user is in (may be repeated)
  --namespace NAMESPACE  the namespace that commands are about if they name none

What runs is etcd, kube-apiserver, kube-controller-manager and kube-scheduler, each a child process of a small
supervisor; with nodes, also a provisioner of volumes. A node is a process in process, mount and network namespaces of
its own, with containerd, kubelet, kube-proxy and CoreDNS in it. With a component's name as the first argument this
program is that component: kube-apiserver --help.
`
