package cluster

import (
	"testing"
	"time"
)

func TestWhatANodeSaidBeforeItsStartDoesNotCount(t *testing.T) {
	said := time.Date(2026, 1, 1, 0, 0, 10, 0, time.UTC)
	node := []byte(`{"kind": "Node", "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:10Z"}]}}`)
	for since, good := range map[time.Time]bool{{}: true, said: true, said.Add(time.Second): false} {
		prober := Prober{Since: since}
		if err := prober.nodeProblem(node); (err == nil) != good {
			t.Errorf("since %s: %v", since, err)
		}
	}
	if err := new(Prober).nodeProblem([]byte(`{"kind": "ServiceAccount"}`)); err != nil {
		t.Errorf("no node: %v", err)
	}
}
