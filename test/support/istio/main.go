// Istio's own code for the mesh tests, without Kubernetes: the generators behind istiod's xDS on a loopback listener, the
// CRDs that istioctl installs, the fetcher of Istio's agent, and a registry to fetch from.
//
//	meshseal-istio xds --config FILE --kube FILE --mesh FILE --modules DIR   prints "xds on ADDRESS"; reads --config again when it changes
//	meshseal-istio crds                                                       prints what istioctl manifest generate does, the CRDs only
//	meshseal-istio pull --modules DIR --sha256 HEX URL                        fetches as the agent does, prints the file's path
//	meshseal-istio registry                                                   an OCI registry in memory; prints "registry on ADDRESS"
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-containerregistry/pkg/registry"
	"google.golang.org/protobuf/types/known/anypb"

	"istio.io/istio/manifests"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	v3 "istio.io/istio/pilot/pkg/xds/v3"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
	istiolog "istio.io/istio/pkg/log"
	"istio.io/istio/pkg/util/sets"
	"istio.io/istio/pkg/wasm"
)

const pollEvery = 100 * time.Millisecond

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("one of xds, crds, pull, registry is needed")
	}
	// stdout is for what callers read.
	options := istiolog.DefaultOptions()
	options.OutputPaths = []string{"stderr"}
	if err := istiolog.Configure(options); err != nil {
		log.Fatal(err)
	}
	run, ok := map[string]func([]string) error{"xds": serveXds, "crds": printCrds, "pull": pull, "registry": serveRegistry}[os.Args[1]]
	if !ok {
		log.Fatalf("%s: no such command", os.Args[1])
	}
	if err := run(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func printCrds([]string) error {
	// The file that istioctl's installer renders; it holds no templates.
	crds, err := manifests.FS.ReadFile("charts/base/files/crd-all.gen.yaml")
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(crds)
	return err
}

func serveRegistry([]string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("registry on", listener.Addr())
	go untilParentEnds()
	return http.Serve(listener, registry.New(registry.WithReferrersSupport(true)))
}

// A cache as pilot-agent makes it; a registry on loopback speaks plain HTTP.
func modules(dir string) wasm.Cache {
	return wasm.NewLocalFileCache(dir, wasm.Options{InsecureRegistries: sets.New("*")})
}

func pull(args []string) error {
	flags := flag.NewFlagSet("pull", flag.ExitOnError)
	dir := flags.String("modules", "", "where modules are kept")
	sum := flags.String("sha256", "", "digest of the image's manifest")
	secret := flags.String("secret", "", "file with a .dockerconfigjson")
	if err := flags.Parse(args); err != nil {
		return err
	}
	options := wasm.GetOptions{Checksum: *sum, ResourceName: "test", ResourceVersion: "1", RequestTimeout: 20 * time.Second}
	if *secret != "" {
		var err error
		if options.PullSecret, err = os.ReadFile(*secret); err != nil {
			return err
		}
	}
	path, err := modules(*dir).Get(flags.Arg(0), options)
	if err == nil {
		fmt.Println(path)
	}
	return err
}

func serveXds(args []string) error {
	flags := flag.NewFlagSet("xds", flag.ExitOnError)
	configFile := flags.String("config", "", "Istio's resources, YAML")
	kubeFile := flags.String("kube", "", "Kubernetes' objects, YAML")
	meshFile := flags.String("mesh", "", "meshConfig, YAML")
	dir := flags.String("modules", "", "where modules are kept")
	if err := flags.Parse(args); err != nil {
		return err
	}
	meshText, err := os.ReadFile(*meshFile)
	if err != nil {
		return err
	}
	meshConfig, err := mesh.ApplyMeshConfigDefaults(string(meshText))
	if err != nil {
		return err
	}
	kube, err := os.ReadFile(*kubeFile)
	if err != nil {
		return err
	}
	address := ""
	server := xds.NewFakeDiscoveryServer(failer{}, xds.FakeOptions{
		KubernetesObjectString: string(kube),
		MeshConfig:             meshConfig,
		ListenerBuilder: func() (net.Listener, error) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				address = listener.Addr().String()
			}
			return listener, err
		},
	})
	server.Discovery.Generators[v3.ExtensionConfigurationType] = agent{
		XdsResourceGenerator: server.Discovery.Generators[v3.ExtensionConfigurationType],
		cache:                modules(*dir),
	}
	store := &follower{store: server.Store(), held: map[string]config.Config{}}
	if err := store.follow(*configFile); err != nil {
		return err
	}
	fmt.Println("xds on", address)
	go untilParentEnds()
	for range time.Tick(pollEvery) {
		if err := store.follow(*configFile); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	return nil
}

// agent does to extension configurations what pilot-agent does between istiod and Envoy: it downloads the module, checks
// its digest, and names the local file.
type agent struct {
	model.XdsResourceGenerator
	cache wasm.Cache
}

func (a agent) Generate(proxy *model.Proxy, w *model.WatchedResource, req *model.PushRequest) (model.Resources, model.XdsLogDetails, error) {
	resources, details, err := a.XdsResourceGenerator.Generate(proxy, w, req)
	if err != nil || len(resources) == 0 {
		return resources, details, err
	}
	bodies := make([]*anypb.Any, len(resources))
	for i, resource := range resources {
		bodies[i] = resource.Resource
	}
	if err := wasm.MaybeConvertWasmExtensionConfig(bodies, a.cache); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return nil, details, nil
	}
	converted := make(model.Resources, len(resources))
	for i, resource := range resources {
		converted[i] = &discovery.Resource{Name: resource.Name, Resource: bodies[i]}
	}
	return converted, details, nil
}

// follower keeps the store equal to a file.
type follower struct {
	store model.ConfigStoreController
	held  map[string]config.Config
	text  []byte
}

func (f *follower) follow(path string) error {
	text, err := os.ReadFile(path)
	if err != nil || bytes.Equal(text, f.text) {
		return err
	}
	f.text = text
	configs, others, err := crd.ParseInputs(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(others) > 0 {
		return fmt.Errorf("%s: %s is not Istio's", path, others[0].Kind)
	}
	seen := map[string]bool{}
	for _, c := range configs {
		key := strings.Join([]string{c.GroupVersionKind.String(), c.Namespace, c.Name}, "/")
		seen[key] = true
		held, isHeld := f.held[key]
		if isHeld {
			c.ResourceVersion = held.ResourceVersion
			if _, err := f.store.Update(c); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		} else if _, err := f.store.Create(c); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if stored := f.store.Get(c.GroupVersionKind, c.Name, c.Namespace); stored != nil {
			f.held[key] = *stored
		}
	}
	for key, held := range f.held {
		if seen[key] {
			continue
		}
		if err := f.store.Delete(held.GroupVersionKind, held.Name, held.Namespace, nil); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		delete(f.held, key)
	}
	fmt.Printf("config %d\n", len(configs))
	return nil
}

// Who started this holds its stdin open.
func untilParentEnds() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// failer is Istio's idea of a test: a failure ends the process.
type failer struct{}

func (failer) Fail()                     { os.Exit(1) }
func (failer) FailNow()                  { os.Exit(1) }
func (failer) Fatal(args ...any)         { log.Fatal(args...) }
func (failer) Fatalf(f string, a ...any) { log.Fatalf(f, a...) }
func (failer) Log(args ...any)           { fmt.Fprintln(os.Stderr, args...) }
func (failer) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (failer) Helper()                   {}
func (failer) Cleanup(func())            {}
func (failer) Skip(...any)               {}
func (failer) TempDir() string {
	dir, err := os.MkdirTemp("", "meshseal-istio-")
	if err != nil {
		log.Fatal(errors.Join(errors.New("no temporary directory"), err))
	}
	return dir
}
