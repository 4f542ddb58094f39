// Package volumes gives every claim of its class a volume: a folder in the folder of the node that the claim's pod will run on.
package volumes

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// Class is the StorageClass that this makes, the default one.
const Class = "standard"

// provisioner is what its StorageClasses name.
const provisioner = "mas-cluster/folders"

// What the scheduler and the controllers write on claims, and expect on volumes.
const (
	wantedOf      = "volume.kubernetes.io/storage-provisioner"
	wantedOn      = "volume.kubernetes.io/selected-node"
	provisionedBy = "pv.kubernetes.io/provisioned-by"
	isDefault     = "storageclass.kubernetes.io/is-default-class"
)

type controller struct {
	client  kubernetes.Interface
	nodes   string // has a folder for every node, of the node's name
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	events  record.EventRecorder
	queue   workqueue.TypedRateLimitingInterface[cache.ObjectName]
}

// Run is the program; it returns only if it cannot work.
func Run() int {
	err := run(context.Background())
	fmt.Fprintf(os.Stderr, "Error: %v\n", err)
	return 1
}

func run(ctx context.Context) error {
	flags := flag.NewFlagSet(provisioner, flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "how to reach the API server")
	nodes := flags.String("nodes", "", "the folder of the nodes' folders")
	_ = flags.Parse(os.Args[1:])
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 300, 600
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	factory := informers.NewSharedInformerFactory(client, 0)
	claims, volumes := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().PersistentVolumes()
	c := &controller{
		client: client, nodes: *nodes,
		claims: claims.Lister(), volumes: volumes.Lister(), classes: factory.Storage().V1().StorageClasses().Lister(),
		events: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: provisioner}),
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]()),
	}
	for _, informer := range []cache.SharedIndexInformer{claims.Informer(), volumes.Informer()} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    c.enqueue,
			UpdateFunc: func(_, now any) { c.enqueue(now) },
		}); err != nil {
			return fmt.Errorf("watching: %w", err)
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for err := c.makeClass(ctx); err != nil; err = c.makeClass(ctx) {
		klog.ErrorS(err, "Making the class; trying again")
		time.Sleep(time.Second)
	}
	for c.next(ctx) {
	}
	return errors.New("its queue ended")
}

func (c *controller) makeClass(ctx context.Context) error {
	_, err := c.client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:           metav1.ObjectMeta{Name: Class, Annotations: map[string]string{isDefault: "true"}},
		Provisioner:          provisioner,
		ReclaimPolicy:        ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode:    ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
		AllowVolumeExpansion: ptr.To(true),
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (c *controller) enqueue(object any) {
	if meta, ok := object.(metav1.Object); ok {
		c.queue.Add(cache.MetaObjectToName(meta))
	}
}

func (c *controller) next(ctx context.Context) bool {
	name, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(name)
	// Volumes are in no namespace.
	sync := c.syncClaim
	if name.Namespace == "" {
		sync = c.syncVolume
	}
	if err := sync(ctx, name); err != nil {
		klog.ErrorS(err, "Trying again", "object", name)
		c.queue.AddRateLimited(name)
	} else {
		c.queue.Forget(name)
	}
	return true
}

func (c *controller) syncClaim(ctx context.Context, name cache.ObjectName) error {
	claim, err := c.claims.PersistentVolumeClaims(name.Namespace).Get(name.Name)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case claim.DeletionTimestamp != nil:
		return nil
	case claim.Spec.VolumeName != "":
		return c.grow(ctx, claim)
	case claim.Annotations[wantedOf] != provisioner:
		return nil
	}
	err = c.provision(ctx, claim)
	if err != nil {
		c.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", err.Error())
	}
	return err
}

func (c *controller) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	class, err := c.classes.Get(ptr.Deref(claim.Spec.StorageClassName, ""))
	if err != nil {
		return fmt.Errorf("looking for the claim's class: %w", err)
	}
	node := claim.Annotations[wantedOn]
	if node == "" && ptr.Deref(class.VolumeBindingMode, "") == storagev1.VolumeBindingWaitForFirstConsumer {
		return nil
	}
	if ptr.Deref(claim.Spec.VolumeMode, "") == corev1.PersistentVolumeBlock {
		return errors.New("there are no block volumes, only file systems")
	}
	name := "pvc-" + string(claim.UID)
	folder, node, err := c.makeFolder(node, name)
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              class.Name,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: folder}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
				},
			}}}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (c *controller) folder(node, volume string) string {
	return filepath.Join(c.nodes, node, "volumes", volume)
}

// makeFolder makes a volume's folder, on the first node if none is chosen. Pods of any user may write there.
func (c *controller) makeFolder(node, name string) (folder, on string, err error) {
	entries, err := os.ReadDir(c.nodes)
	if err != nil {
		return "", "", fmt.Errorf("looking for the nodes' folders: %w", err)
	}
	var nodes []string
	for _, entry := range entries {
		nodes = append(nodes, entry.Name())
	}
	if node == "" {
		node = nodes[0]
	}
	if !slices.Contains(nodes, node) {
		return "", "", fmt.Errorf("making the volume's folder: there is no node %s", node)
	}
	folder = c.folder(node, name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", "", fmt.Errorf("making the volume's folder: %w", err)
	}
	// Not by MkdirAll, which heeds the umask.
	return folder, node, os.Chmod(folder, 0o777)
}

// grow gives a claim what it asks for: a folder is as large as its disk.
func (c *controller) grow(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	volume, err := c.volumes.Get(claim.Spec.VolumeName)
	if err != nil {
		return err
	}
	asked, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if !c.owns(volume) || claim.Status.Phase != corev1.ClaimBound || asked.Cmp(has) <= 0 {
		return nil
	}
	if capacity := volume.Spec.Capacity[corev1.ResourceStorage]; capacity.Cmp(asked) < 0 {
		volume = volume.DeepCopy()
		volume.Spec.Capacity[corev1.ResourceStorage] = asked
		if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("growing the volume: %w", err)
		}
	}
	claim = claim.DeepCopy()
	claim.Status.Capacity[corev1.ResourceStorage] = asked
	claim.Status.Conditions = slices.DeleteFunc(claim.Status.Conditions, func(condition corev1.PersistentVolumeClaimCondition) bool {
		return condition.Type == corev1.PersistentVolumeClaimResizing || condition.Type == corev1.PersistentVolumeClaimFileSystemResizePending
	})
	if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("growing the claim: %w", err)
	}
	return nil
}

// syncVolume removes a volume whose claim is gone, with what is in it.
func (c *controller) syncVolume(ctx context.Context, name cache.ObjectName) error {
	volume, err := c.volumes.Get(name.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !c.owns(volume) || volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	if err := os.RemoveAll(volume.Spec.Local.Path); err != nil {
		return fmt.Errorf("removing the volume's folder: %w", err)
	}
	return c.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, *metav1.NewPreconditionDeleteOptions(string(volume.UID)))
}

// owns says whether a volume is one that was made here, whatever somebody wrote into it.
func (c *controller) owns(volume *corev1.PersistentVolume) bool {
	if volume.Annotations[provisionedBy] != provisioner || volume.Spec.Local == nil {
		return false
	}
	path := volume.Spec.Local.Path
	return path == c.folder(filepath.Base(filepath.Dir(filepath.Dir(path))), volume.Name)
}
