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

package gateway

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/validation"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/injection"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/proxy"
)

// maxVerbosity is the last at which client-go does not log bodies (k8s.io/client-go/rest, logBody): a TokenReview's is a token.
const maxVerbosity = 7

// Options are the gateway's flags.
type Options struct {
	// Listen is the address that is served.
	Listen string
	// MetricsListen is the address of /metrics; empty: there are none.
	MetricsListen string
	// Kubeconfig says how kube-apiserver is reached; empty: as the Pod's service account.
	Kubeconfig string
	// KeysSecret is namespace/name of the Secret of the keys; empty: there are none.
	KeysSecret string
	// RouteKeySecret is namespace/name of the Secret of the key that route tokens are signed with.
	RouteKeySecret string
	// PublicAddress is what addresses of sandboxes' ports begin with; empty: with the host that the client has named.
	PublicAddress string
	// DefaultNamespace is for keys and tokens that come without a namespace.
	DefaultNamespace string
	// OpenAs is the user that requests without a key or a token are let in as; empty: they are refused.
	OpenAs string
	// ExecdImage holds the execd that is put into sandboxes, and ExecdFlavor says whose that is; empty: its name does.
	ExecdImage, ExecdFlavor string
	// AllowedHostPaths are the folders of nodes that sandboxes may mount.
	AllowedHostPaths []string
	// MaxBody is how many bytes a request's body may have, beside those for a sandbox.
	MaxBody int64
	// RequestTimeout is how long a request may take, beside those for a sandbox.
	RequestTimeout time.Duration
	// ShutdownDelay is for how long requests are still taken after the signal to end, until no new ones are sent here.
	ShutdownDelay time.Duration
	// ShutdownGrace is how long requests then have to end.
	ShutdownGrace time.Duration

	Logs *logs.Options
}

// NewOptions returns the defaults.
func NewOptions() *Options {
	return &Options{
		Listen:           ":8080",
		MetricsListen:    ":8081",
		KeysSecret:       "sandbox-system/lifecycle-gateway-keys",
		RouteKeySecret:   "sandbox-system/lifecycle-gateway-route-key",
		DefaultNamespace: "default",
		ExecdImage:       "execd:dev",
		MaxBody:          1 << 20,
		RequestTimeout:   25 * time.Second,
		ShutdownDelay:    5 * time.Second,
		ShutdownGrace:    20 * time.Second,
		Logs:             logs.NewOptions(),
	}
}

// Flags returns the flags by what they are about.
func (o *Options) Flags() cliflag.NamedFlagSets {
	var sections cliflag.NamedFlagSets
	serving := sections.FlagSet("serving")
	serving.StringVar(&o.Listen, "listen", o.Listen, "Address that is served, in plain HTTP.")
	serving.StringVar(&o.MetricsListen, "metrics-listen", o.MetricsListen,
		"Address that /metrics is served at, in plain HTTP and to whoever reaches it. Empty: nowhere.")
	serving.Int64Var(&o.MaxBody, "max-body", o.MaxBody,
		"How many bytes a request's body may have. Does not hold for what is sent to sandboxes.")
	serving.DurationVar(&o.RequestTimeout, "request-timeout", o.RequestTimeout,
		"How long a request may take before it is answered with 503: the SDKs wait for 30s. Does not hold for what is sent to sandboxes.")
	serving.DurationVar(&o.ShutdownDelay, "shutdown-delay", o.ShutdownDelay,
		"For how long requests are still taken after the signal to end, while /readyz says no already.")
	serving.DurationVar(&o.ShutdownGrace, "shutdown-grace", o.ShutdownGrace,
		"How long requests then have to end before their connections are closed.")

	who := sections.FlagSet("callers")
	who.StringVar(&o.KeysSecret, "keys-secret", o.KeysSecret,
		"NAMESPACE/NAME of the Secret with the keys. It is watched. Each entry is a JSON or YAML object: sha256 (of the key, hexadecimal), "+
			"user, groups, namespace. Without a key in it the gateway does not start, unless --open-as is set. "+
			"Empty: no keys are taken, only tokens of the cluster.")
	who.StringVar(&o.DefaultNamespace, "default-namespace", o.DefaultNamespace,
		"Where the sandboxes are of keys and tokens that do not say it.")
	who.StringVar(&o.OpenAs, "open-as", o.OpenAs,
		"Let requests without a key or a token in, as this user of the cluster. Whoever reaches the gateway can then do all that this user may.")

	ports := sections.FlagSet("ports of sandboxes")
	ports.StringVar(&o.PublicAddress, "public-address", o.PublicAddress,
		"What addresses of sandboxes' ports begin with: HOST, HOST:PORT or HOST:PORT/PATH. Empty: with the host that the client has named.")
	ports.StringVar(&o.RouteKeySecret, "route-key-secret", o.RouteKeySecret,
		"NAMESPACE/NAME of the Secret with the key that route tokens are signed with, which all replicas share. It is made if it is missing; "+
			"to end all tokens delete it.")
	made := sections.FlagSet("sandboxes")
	made.StringVar(&o.ExecdImage, "execd-image", o.ExecdImage,
		"Image of the execd that is put into sandboxes: this project's, or OpenSandbox's own.")
	made.StringVar(&o.ExecdFlavor, "execd-flavor", o.ExecdFlavor,
		"Whose execd --execd-image holds: own or opensandbox. Empty: opensandbox where the image's name ends with opensandbox/execd, as OpenSandbox publishes it, else own.")
	made.StringSliceVar(&o.AllowedHostPaths, "allowed-host-paths", o.AllowedHostPaths,
		"Folders of the nodes that sandboxes may mount, with all below them. A link there leads wherever it points to: name only folders that no sandbox can write to. Empty: none.")

	cluster := sections.FlagSet("cluster")
	cluster.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig,
		"How kube-apiserver is reached. Empty: as the service account of the Pod that this runs in.")

	logsapi.AddFlags(o.Logs, sections.FlagSet("logs"))
	return sections
}

// Validate says what cannot be as it is.
func (o *Options) Validate() error {
	var wrong []error
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		wrong = append(wrong, fmt.Errorf("--listen=%s is no address such as :8080: %w", o.Listen, err))
	}
	if _, _, err := net.SplitHostPort(o.MetricsListen); err != nil && o.MetricsListen != "" {
		wrong = append(wrong, fmt.Errorf("--metrics-listen=%s is no address such as :8081: %w", o.MetricsListen, err))
	}
	if _, _, err := o.keysSecret(); err != nil {
		wrong = append(wrong, err)
	}
	if o.RouteKeySecret == "" {
		wrong = append(wrong, errors.New("--route-key-secret has to be NAMESPACE/NAME"))
	} else if _, _, err := secretName("--route-key-secret", o.RouteKeySecret); err != nil {
		wrong = append(wrong, err)
	}
	if _, err := proxy.ParsePublicAddress(o.PublicAddress); err != nil {
		wrong = append(wrong, fmt.Errorf("--public-address: %w", err))
	}
	if causes := validation.ValidateNamespaceName(o.DefaultNamespace, false); len(causes) > 0 {
		wrong = append(wrong, fmt.Errorf("--default-namespace=%s is no name of a namespace: %s", o.DefaultNamespace, strings.Join(causes, ", ")))
	}
	if strings.HasPrefix(o.OpenAs, "system:") {
		wrong = append(wrong, fmt.Errorf("--open-as=%s is a user of Kubernetes' own: name one that is for this alone, and give it rights in one namespace", o.OpenAs))
	}
	for _, one := range append(logsapi.VModuleConfiguration{{FilePattern: "*", Verbosity: o.Logs.Verbosity}}, o.Logs.VModule...) {
		if one.Verbosity > maxVerbosity {
			wrong = append(wrong, fmt.Errorf("-v or --vmodule of %d would have the bodies of requests in the log, and so callers' tokens and passwords: it has to be %d at most",
				one.Verbosity, maxVerbosity))
		}
	}
	if _, err := o.execd(); err != nil {
		wrong = append(wrong, err)
	}
	for _, folder := range o.AllowedHostPaths {
		if !filepath.IsAbs(folder) || filepath.Clean(folder) == "/" {
			wrong = append(wrong, fmt.Errorf("--allowed-host-paths: %q has to be an absolute path, and not / itself", folder))
		}
	}
	if o.MaxBody < 1<<10 {
		wrong = append(wrong, errors.New("--max-body has to be 1024 at least"))
	}
	if o.RequestTimeout < time.Second {
		wrong = append(wrong, errors.New("--request-timeout has to be 1s at least"))
	}
	if o.ShutdownDelay < 0 || o.ShutdownGrace < 0 {
		wrong = append(wrong, errors.New("--shutdown-delay and --shutdown-grace cannot be negative"))
	}
	return utilerrors.NewAggregate(wrong)
}

func (o *Options) keysSecret() (namespace, name string, err error) {
	if o.KeysSecret == "" {
		return "", "", nil
	}
	return secretName("--keys-secret", o.KeysSecret)
}

func secretName(flag, value string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(value, "/")
	if !ok || len(validation.ValidateNamespaceName(namespace, false)) > 0 || len(validation.NameIsDNSSubdomain(name, false)) > 0 {
		return "", "", fmt.Errorf("%s=%s is no NAMESPACE/NAME", flag, value)
	}
	return namespace, name, nil
}

func (o *Options) execd() (injection.Execd, error) {
	flavor := injection.Flavor(o.ExecdFlavor)
	named, err := injection.FlavorOf(o.ExecdImage)
	switch {
	case err != nil:
		return injection.Execd{}, fmt.Errorf("--execd-image: %w", err)
	case flavor == "":
		flavor = named
	case flavor != injection.Own && flavor != injection.OpenSandbox:
		return injection.Execd{}, fmt.Errorf("--execd-flavor=%s is neither %s nor %s", flavor, injection.Own, injection.OpenSandbox)
	}
	return injection.Execd{Image: o.ExecdImage, Flavor: flavor}, nil
}
