package volumes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFoldersAreMadeForNodesThatThereAreAndForEveryUser(t *testing.T) {
	c := &controller{nodes: t.TempDir()}
	for _, node := range []string{"node-1", "node-2"} {
		if err := os.Mkdir(filepath.Join(c.nodes, node), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for asked, expected := range map[string]string{"node-2": "node-2", "": "node-1"} {
		folder, node, err := c.makeFolder(asked, "pvc-1")
		if err != nil || node != expected {
			t.Fatalf("for %q on %s: %v", asked, node, err)
		}
		if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o777 {
			t.Errorf("%s: %v, %v", folder, info, err)
		}
	}
	for _, node := range []string{"node-3", "..", "node-1/.."} {
		if _, _, err := c.makeFolder(node, "pvc-1"); err == nil || !strings.Contains(err.Error(), "no node") {
			t.Errorf("%s: %v", node, err)
		}
	}
}

func TestOnlyWhatWasMadeHereIsRemoved(t *testing.T) {
	c := &controller{nodes: "/c/nodes"}
	for path, expected := range map[string]bool{
		"/c/nodes/node-1/volumes/pvc-1": true,
		"/c/nodes/node-1/volumes/pvc-2": false,
		"/c/nodes/node-1/pvc-1":         false,
		"/home/node-1/volumes/pvc-1":    false,
	} {
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", Annotations: map[string]string{provisionedBy: provisioner}}}
		if c.owns(volume) {
			t.Error("it has no path")
		}
		volume.Spec.Local = &corev1.LocalVolumeSource{Path: path}
		if c.owns(volume) != expected {
			t.Errorf("%s: %v", path, !expected)
		}
		volume.Annotations = nil
		if c.owns(volume) {
			t.Errorf("%s: somebody else's", path)
		}
	}
}
