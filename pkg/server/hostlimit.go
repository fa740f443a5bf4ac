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

package server

import (
	"net/http"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// limited returns a connection whose requests are limited all together, to its QPS and Burst.
//
// The limit that client-go puts on a connection counts for each client apart, and
// controller-runtime makes two for every kind of object: it would bound nothing that the
// administrator who set it could name. Events have a limit of their own, as high: a thousand of
// them, told at once, must not hold up the Pods that they tell of.
func limited(config *rest.Config) *rest.Config {
	requests := flowcontrol.NewTokenBucketRateLimiter(config.QPS, config.Burst)
	events := flowcontrol.NewTokenBucketRateLimiter(config.QPS, config.Burst)
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, 0
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			limit := requests
			if strings.HasPrefix(request.URL.Path, "/apis/events.k8s.io/") {
				limit = events
			}
			if err := limit.Wait(request.Context()); err != nil {
				return nil, err
			}
			return next.RoundTrip(request)
		})
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }
