package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
)

// scrapeLimit bounds each part of a scrape: reading the question and writing the answer.
const scrapeLimit = 10 * time.Second

// checkMetricsAddress refuses an address that others reach, unless that is said to be meant. No address is fine, too.
func checkMetricsAddress(address string, public bool) error {
	if address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port", address)
	}
	if ip, err := netip.ParseAddr(host); public || host == "localhost" || err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%q can be reached from other machines, and there is no login; use 127.0.0.1, or set metrics_public = true", address)
}

// serveMetrics answers scrapes until stop is called, if the configuration asks for it. What goes wrong after the start is logged: people's sessions are
// worth more than numbers.
func serveMetrics(ctx context.Context, parts *assembly, server *gateway.Server) (stop func(), err error) {
	address := parts.cfg.MetricsListen
	if address == "" {
		return func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics_listen: cannot listen on %s: %w", address, err)
	}
	parts.metrics.Observe(server.Load)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", parts.metrics)
	scrapes := &http.Server{Handler: mux, ReadTimeout: scrapeLimit, WriteTimeout: scrapeLimit, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	parts.log.Info("metrics", "address", listener.Addr().String())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := scrapes.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			parts.log.Error("metrics are not served any more", "cause", err.Error())
		}
	}()
	return func() {
		_ = scrapes.Close()
		<-ended
	}, nil
}
