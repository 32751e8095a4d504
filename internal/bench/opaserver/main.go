// Opaserver is Open Policy Agent's REST server with a policy and data from files, and nothing else: what `opa run -s` is,
// without the hundreds of packages of its command line. The benchmarks put it behind nginx's auth_request.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"
)

func main() {
	var addrs []string
	flag.Func("addr", "`address` to serve on, plain HTTP: HOST:PORT or unix://PATH; may be repeated", func(s string) error {
		addrs = append(addrs, s)
		return nil
	})
	policy := flag.String("policy", "", "`file` of Rego")
	data := flag.String("data", "", "`file` of JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, addrs, *policy, *data); err != nil {
		fmt.Fprintln(os.Stderr, "opaserver: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addrs []string, policyFile, dataFile string) error {
	store, err := load(ctx, policyFile, dataFile)
	if err != nil {
		return err
	}
	manager, err := plugins.New([]byte(`{}`), "bench", store, plugins.Logger(logging.NewNoOpLogger()))
	if err != nil {
		return fmt.Errorf("make the plugin manager: %w", err)
	}
	if err := manager.Start(ctx); err != nil {
		return fmt.Errorf("start the plugin manager: %w", err)
	}
	s, err := server.New().WithAddresses(addrs).WithStore(store).WithManager(manager).Init(ctx)
	if err != nil {
		return fmt.Errorf("make the server: %w", err)
	}
	loops, err := s.Listeners()
	if err != nil {
		return fmt.Errorf("listen on %s: %w", addrs, err)
	}
	failed := make(chan error, len(loops))
	for _, loop := range loops {
		go func() { failed <- loop() }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return s.Shutdown(context.WithoutCancel(ctx))
	}
}

// load puts the policy and the data into a store that hands out values as the evaluator wants them, which is OPA's fastest.
func load(ctx context.Context, policyFile, dataFile string) (storage.Store, error) {
	policy, err := os.ReadFile(policyFile)
	if err != nil {
		return nil, err
	}
	if _, err := ast.ParseModule(policyFile, string(policy)); err != nil {
		return nil, fmt.Errorf("parse the policy: %w", err)
	}
	text, err := os.ReadFile(dataFile)
	if err != nil {
		return nil, err
	}
	var data map[string]any
	if err := util.UnmarshalJSON(text, &data); err != nil {
		return nil, fmt.Errorf("read %s: %w", dataFile, err)
	}
	store := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	err = storage.Txn(ctx, store, storage.WriteParams, func(txn storage.Transaction) error {
		return store.UpsertPolicy(ctx, txn, "peer.rego", policy)
	})
	if err != nil {
		return nil, fmt.Errorf("store the policy: %w", err)
	}
	return store, nil
}
