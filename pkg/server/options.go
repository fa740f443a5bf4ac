/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

// Package server is the program sandbox-apiserver: its flags, its embedded etcd, the identity of
// its store, its serving certificate, and the controllers that run beside the API in one process.
package server

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// Names of what the server keeps in its own namespace.
const (
	// ServiceName is the Service in front of the server, and the name of its Lease.
	ServiceName = "sandbox-apiserver"
	// StoreConfigMapName is the ConfigMap that mirrors the identity of the store.
	StoreConfigMapName = "sandbox-apiserver-store"
	// APIServiceName is the registration of the API with the kube-apiserver.
	APIServiceName = "v1alpha1.lifecycle.opensandbox.io"
)

// defaultEtcdPrefix begins every key of the API.
const defaultEtcdPrefix = "/registry/lifecycle.opensandbox.io"

// Options is everything that the server can be told.
type Options struct {
	Run         *genericoptions.ServerRunOptions
	Recommended *genericoptions.RecommendedOptions
	Logs        *logs.Options

	// DataDir holds the embedded etcd, unless --etcd-servers names a cluster.
	DataDir string
	// StoreQuota is how many bytes the database of the embedded etcd may hold. Zero: what its volume
	// allows.
	StoreQuota resource.QuantityValue
	// AcceptNewStorage takes the store as it is, whatever the ConfigMap knows.
	AcceptNewStorage bool
	// RunControllers has the controllers act. Without, the API is served and nothing happens.
	RunControllers bool
	// ServingCertSecret is the Secret of the server's namespace that holds its certificate.
	// Empty: the server keeps none there.
	ServingCertSecret string
	// KubeAPIQPS and KubeAPIBurst bound the requests of the controllers to the kube-apiserver.
	KubeAPIQPS   float32
	KubeAPIBurst int
	Controller   controller.Options
	// LeaderElection is the lease of the controllers.
	LeaderElection LeaseTimes

	// Namespace is the server's own, from the environment variable POD_NAMESPACE.
	Namespace string

	// Standalone runs the server without a cluster: tests that serve the API alone set it.
	Standalone *Standalone
}

// Standalone replaces the cluster around the server. It has no flag.
type Standalone struct {
	Authenticator authenticator.Request
	Authorizer    authorizer.Authorizer
	// Client is the kube-apiserver that knows the identity of the store. Nil: any store will do.
	Client kubernetes.Interface
	// Admission is the kube-apiserver that has the quotas, policies and webhooks. Nil: everything
	// is admitted.
	Admission *StandaloneAdmission
	// Host is the cluster that a dry run of a pause looks at. Nil: it looks at the sandbox alone.
	Host client.Client
}

// StandaloneAdmission replaces the connections of the admission plugins.
type StandaloneAdmission struct {
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface

	options *genericoptions.AdmissionOptions
}

// NewOptions returns the options with their defaults.
func NewOptions() *Options {
	o := &Options{
		Run:               genericoptions.NewServerRunOptions(),
		Recommended:       genericoptions.NewRecommendedOptions(defaultEtcdPrefix, scheme.Codecs.LegacyCodec(v1alpha1.SchemeGroupVersion)),
		Logs:              logs.NewOptions(),
		DataDir:           "/var/lib/sandbox-apiserver",
		RunControllers:    true,
		ServingCertSecret: "sandbox-apiserver-serving-cert",
		KubeAPIQPS:        200,
		KubeAPIBurst:      400,
		// A kube-apiserver that restarts is away for less than 40 seconds, mostly.
		LeaderElection: LeaseTimes{Duration: time.Minute, RenewDeadline: 40 * time.Second, RetryPeriod: 10 * time.Second},
		Controller: controller.Options{
			LayerCompression:       commitjob.Zstd,
			SnapshotImageTemplate:  naming.DefaultImageTemplate,
			SnapshotBaseRepository: naming.DefaultBaseRepository,
			ImageCheckInterval:     30 * time.Minute,
			CommitterImage:         "image-committer:dev",
			CommitJobTimeout:       10 * time.Minute,
			ThawAfter:              commitjob.DefaultThawAfter,
			// What half of a usual node's disk holds, and is written out in minutes.
			MaxHoles: resource.QuantityValue{Quantity: resource.MustParse("32Gi")},
			// A Pod without a runtime class has the empty handler. gVisor and Kata keep files
			// where a commit cannot see them.
			CommitRuntimes:       []string{"", "runc", "crun"},
			ContainerdSocketPath: "/run/containerd/containerd.sock",
			ContainerdRoot:       "/var/lib/containerd",
			MaxCommitsPerNode:    2,
			MaxCommits:           100,
		},
	}
	// Discovery tells those who migrate stores which version is stored.
	o.Recommended.Etcd.StorageConfig.EncodeVersioner = v1alpha1.SchemeGroupVersion
	addQuota(o.Recommended)
	// A port below 1024 would need a privilege that nothing else here needs.
	o.Recommended.SecureServing.BindPort = 8443
	// A certificate that no file holds is kept in the Secret, or in memory.
	o.Recommended.SecureServing.ServerCert.CertDirectory = ""
	o.Recommended.SecureServing.ServerCert.PairName = ""
	// On the way down, tell clients to come back instead of cutting them off, and end watches
	// early: without, every open watch would hold up a restart for a minute.
	o.Run.ShutdownSendRetryAfter = true
	o.Run.ShutdownWatchTerminationGracePeriod = 3 * time.Second
	return o
}

// Flags returns the flags in groups, as --help shows them.
func (o *Options) Flags() cliflag.NamedFlagSets {
	var sets cliflag.NamedFlagSets
	o.addSnapshotFlags(sets.FlagSet("snapshot"))
	o.addStorageFlags(sets.FlagSet("storage"))
	o.addServingFlags(sets.FlagSet("serving"))
	o.addHostFlags(sets.FlagSet("kubernetes"))
	o.Recommended.Authentication.AddFlags(sets.FlagSet("authentication"))
	o.Recommended.Authorization.AddFlags(sets.FlagSet("authorization"))
	o.Recommended.Audit.AddFlags(sets.FlagSet("audit"))
	o.Recommended.Admission.AddFlags(sets.FlagSet("admission"))
	o.Recommended.Features.AddFlags(sets.FlagSet("features"))
	o.Recommended.Traces.AddFlags(sets.FlagSet("tracing"))
	o.Recommended.EgressSelector.AddFlags(sets.FlagSet("egress"))
	o.Run.AddUniversalFlags(sets.FlagSet("generic"))
	logsapi.AddFlags(o.Logs, sets.FlagSet("logging"))
	return sets
}

func (o *Options) addSnapshotFlags(fs *pflag.FlagSet) {
	c := &o.Controller
	fs.StringVar(&c.SnapshotRegistry, "snapshot-registry", c.SnapshotRegistry,
		"Where snapshot images go: a registry, optionally with a path, for example registry.example.com/sandboxes. "+
			"Without it every pause fails with RegistryNotConfigured.")
	fs.BoolVar(&c.SnapshotRegistryInsecure, "snapshot-registry-insecure", c.SnapshotRegistryInsecure,
		"Allow plain HTTP, and certificates that do not verify, for the snapshot registry.")
	fs.StringVar(&c.SnapshotRegistryCA, "snapshot-registry-ca", c.SnapshotRegistryCA,
		"ConfigMap of the commit Jobs' namespace whose key ca.crt holds the certificates that the snapshot registry is verified with. "+
			"Without it, the public roots.")
	fs.StringVar(&c.SnapshotPushSecret, "snapshot-push-secret", c.SnapshotPushSecret,
		"Secret of the commit Jobs' namespace, of type kubernetes.io/dockerconfigjson, that pushes use. Without it they are anonymous.")
	fs.StringVar(&c.ResumePullSecret, "resume-pull-secret", c.ResumePullSecret,
		"Name of a Secret in the sandbox's own namespace that is added to the imagePullSecrets of a resumed Pod. Without it none is added.")
	fs.StringVar(&c.SnapshotImageTemplate, "snapshot-image-template", c.SnapshotImageTemplate,
		"How image references are made. It must hold the namespace and the UID of the snapshot, so that no two snapshots share an image.")
	fs.StringVar(&c.SnapshotBaseRepository, "snapshot-base-repository", c.SnapshotBaseRepository,
		"Path below the snapshot registry of a repository that keeps the layers of base images, so that each is uploaded once and not "+
			"once for a sandbox. It can be deleted at any time. Empty: none; none is used either where all snapshots have one repository.")
	fs.DurationVar(&c.ImageCheckInterval, "image-check-interval", c.ImageCheckInterval,
		"About how often it is checked that the snapshot which a sandbox's next resume needs is in the registry, each layer of it, 25 requests a second "+
			"in all at most. 0: only when it resumes.")
	fs.StringVar(&c.CommitterImage, "image-committer-image", c.CommitterImage,
		"Image of the Jobs that commit containers, thaw and kill them. The API cannot change it.")
	fs.StringVar(&c.CommitJobNamespace, "commit-job-namespace", c.CommitJobNamespace,
		"Namespace of commit and unpause Jobs and of the push secret. Whoever may exec or read secrets there can reach every sandbox: "+
			"never a namespace of sandboxes. By default the server's own, from the environment variable POD_NAMESPACE.")
	fs.StringVar(&c.CommitPriorityClass, "commit-priority-class", c.CommitPriorityClass,
		"PriorityClass of the Pods of commit and unpause Jobs; it has to exist. One of a low value that preempts nobody keeps them from ending "+
			"sandboxes. Without it, the cluster's default.")
	fs.DurationVar(&c.CommitJobTimeout, "commit-job-timeout", c.CommitJobTimeout,
		"How long a commit may take, counted from the start of its container.")
	fs.StringVar(&c.LayerCompression, "layer-compression", c.LayerCompression,
		"How the layers of snapshots are compressed: zstd, or gzip for registries and tools that do not know zstd.")
	fs.BoolVar(&c.CommitHostNetwork, "commit-host-network", c.CommitHostNetwork,
		"Let commits use their node's network: for a registry that nodes reach and Pods do not, by a name of the nodes' hosts file, say. "+
			"A registry at a loopback address (localhost:5000) needs it, and gets it without this flag.")
	fs.DurationVar(&c.MaxFrozen, "max-frozen", c.MaxFrozen,
		"For how long a commit may keep containers frozen before it is given up and they are thawed. 0: two minutes, "+
			"or less where a liveness or startup probe of the Pod bears less.")
	fs.DurationVar(&c.ThawAfter, "thaw-after", c.ThawAfter,
		"How long after a pause's commit its node waits for this server, which removes the Pod then. Where it is away for longer, the node thaws "+
			"what is frozen, and the pause is made again when it is back. It has to be longer than a restart takes.")
	fs.Var(&c.MaxHoles, "max-holes",
		"How many bytes of holes the sparse files of a container may have. A snapshot takes no room for them, but unpacking its image "+
			"writes them to the node's disk, as zeros. 0: any number.")
	fs.Var(&c.ResumeCache, "resume-cache",
		"How many bytes of images of paused sandboxes each node may keep, so that a resume there has nothing to pull (10Gi, say). "+
			"0: none. Every Pod on the node that names such an image by its digest can use it without credentials: see docs/security.md.")
	fs.StringSliceVar(&c.CommitRuntimes, "commit-runtimes", c.CommitRuntimes,
		"Runtime handlers whose files a commit can see; the empty one is that of Pods without a runtime class.")
	fs.StringVar(&c.ContainerdSocketPath, "containerd-socket-path", c.ContainerdSocketPath,
		"The socket of containerd on the nodes.")
	fs.StringVar(&c.ContainerdRoot, "containerd-root", c.ContainerdRoot,
		"The root directory of containerd on the nodes. Commit Jobs mount it read-only.")
	fs.BoolVar(&c.MoveOnCordon, "move-on-cordon", c.MoveOnCordon,
		"Save the sandboxes of a node as soon as it is cordoned, and bring them back on others. A cordon by itself asks for no more than that no new Pods "+
			"come; those that are evicted from a node, or whose node an autoscaler has marked, move without this flag.")
	fs.IntVar(&c.MaxCommitsPerNode, "max-commits-per-node", c.MaxCommitsPerNode,
		"How many commits run on one node at a time. The others wait and say so.")
	fs.IntVar(&c.MaxCommits, "max-commits", c.MaxCommits,
		"How many commits run at a time.")
}

func (o *Options) addStorageFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.DataDir, "data-dir", o.DataDir,
		"Directory of the embedded etcd, which runs unless --etcd-servers names a cluster. One replica only.")
	fs.Var(&o.StoreQuota, "store-quota",
		"How many bytes the database of the embedded etcd may hold before writes that make it larger are refused (4Gi, say). "+
			"0: three fifths of its volume, less what its log takes, up to 8Gi.")
	fs.BoolVar(&o.AcceptNewStorage, "accept-new-storage", o.AcceptNewStorage, fmt.Sprintf(
		"Take the store as it is, even where the ConfigMap %s knows another, or knows it newer. Pods of sandboxes that the store does not know are reported, never deleted.",
		StoreConfigMapName))
	fs.BoolVar(&o.RunControllers, "controllers", o.RunControllers,
		"Run the controllers. Without them the API is served and nothing acts on it: to look at a store that was restored, before anything is started or deleted.")
	o.Recommended.Etcd.AddFlags(fs)
}

func (o *Options) addServingFlags(fs *pflag.FlagSet) {
	o.Recommended.SecureServing.AddFlags(fs)
	fs.StringVar(&o.ServingCertSecret, "serving-cert-secret", o.ServingCertSecret,
		"Secret of the server's namespace in which it keeps a certificate authority and a serving certificate of its own, renews them, "+
			"and tells the APIService. Not used with --tls-cert-file. Empty: a self-signed certificate in memory.")
}

func (o *Options) addHostFlags(fs *pflag.FlagSet) {
	o.Recommended.CoreAPI.AddFlags(fs)
	fs.Float32Var(&o.KubeAPIQPS, "kube-api-qps", o.KubeAPIQPS,
		"How many requests a second the controllers may send to the kube-apiserver, and as many events beside them. A pause takes about ten.")
	fs.IntVar(&o.KubeAPIBurst, "kube-api-burst", o.KubeAPIBurst,
		"How many requests the controllers may send to the kube-apiserver at once, above --kube-api-qps.")
	l := &o.LeaderElection
	fs.DurationVar(&l.Duration, "leader-elect-lease-duration", l.Duration,
		"How long the other replicas wait before one of them takes over the controllers of a replica that is not heard of any more. One that is shut down gives them up at once.")
	fs.DurationVar(&l.RenewDeadline, "leader-elect-renew-deadline", l.RenewDeadline,
		"For how long the kube-apiserver may be away before a replica ends its controllers, which start afresh when it is back. The API is served on.")
	fs.DurationVar(&l.RetryPeriod, "leader-elect-retry-period", l.RetryPeriod,
		"How often the lease of the controllers is renewed, and asked for by the replicas that do not have it.")
}
