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
	"math"
	"os"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/sandboxes"
)

// NewCommand makes the command. What goes wrong is returned as one sentence; the caller prints it.
func NewCommand(version string) *cobra.Command {
	options := NewOptions()
	gates := featuregate.NewFeatureGate()
	utilruntime.Must(logsapi.AddFeatureGates(gates))
	command := &cobra.Command{
		Use:   "lifecycle-gateway",
		Short: "Serves OpenSandbox's Lifecycle API from the Sandbox API of a cluster.",
		Long: "Serves OpenSandbox's Lifecycle API, for its SDKs and for curl, and leads into sandboxes. What is asked is done\n" +
			"with the Sandbox API of the cluster, as the user that a key or a token stands for. It keeps nothing itself:\n" +
			"any number of replicas do.",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := options.Validate(); err != nil {
				return err
			}
			if err := logsapi.ValidateAndApply(options.Logs, gates); err != nil {
				return err
			}
			if limit, err := memlimit.Set(); err == nil && limit < math.MaxInt64 {
				klog.InfoS("The garbage collector heeds a limit of memory", "bytes", limit)
			}
			config, err := options.Config()
			if err != nil {
				return err
			}
			server, err := New(config)
			if err != nil {
				return err
			}
			return server.Run(cmd.Context())
		},
	}
	command.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w; --help lists the flags", err)
	})
	sections := options.Flags()
	for _, set := range sections.FlagSets {
		command.Flags().AddFlagSet(set)
	}
	// Zero, where there is no terminal, leaves the lines as they are.
	columns, _, _ := term.GetSize(int(os.Stdout.Fd()))
	cliflag.SetUsageAndHelpFunc(command, sections, columns)
	return command
}

// Config is what the flags say.
func (o *Options) Config() (Config, error) {
	cluster, err := o.cluster()
	if err != nil {
		return Config{}, err
	}
	return o.ConfigFor(cluster)
}

// ConfigFor is Config with a way to kube-apiserver that is given.
func (o *Options) ConfigFor(cluster *rest.Config) (Config, error) {
	namespace, name, err := o.keysSecret()
	if err != nil {
		return Config{}, err
	}
	routeNamespace, routeName, err := secretName("--route-key-secret", o.RouteKeySecret)
	if err != nil {
		return Config{}, err
	}
	execd, err := o.execd()
	if err != nil {
		return Config{}, err
	}
	return Config{
		Cluster: cluster, Listen: o.Listen, MetricsListen: o.MetricsListen,
		RouteKeyNamespace: routeNamespace, RouteKeyName: routeName, PublicAddress: o.PublicAddress,
		Sandboxes:     sandboxes.Settings{Execd: execd, AllowedHostPaths: o.AllowedHostPaths},
		KeysNamespace: namespace, KeysName: name, DefaultNamespace: o.DefaultNamespace, OpenAs: o.OpenAs,
		MaxBody: o.MaxBody, RequestTimeout: o.RequestTimeout,
		ShutdownDelay: o.ShutdownDelay, ShutdownGrace: o.ShutdownGrace,
	}, nil
}

func (o *Options) cluster() (*rest.Config, error) {
	if o.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("finding the cluster: %w; outside of a Pod set --kubeconfig", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading --kubeconfig=%s: %w", o.Kubeconfig, err)
	}
	return config, nil
}
