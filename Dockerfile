# The binary is static and alone in its image: no shell, no package manager, nothing to update but itself and the certificate roots.
FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.buildVersion=${VERSION}" -o /out/ssm-ssh-gateway ./cmd/ssm-ssh-gateway \
	&& mkdir -p -m 0700 /out/state

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/ssm-ssh-gateway /ssm-ssh-gateway
# What the gateway learns and makes (its own host key, pins, the audit log) is the only thing it writes: the root may be read-only. The configuration,
# /etc/ssm-ssh-gateway/config.toml, says so: state_dir = "/var/lib/ssm-ssh-gateway", audit_log = "-", and listen = ["[::]:2222"].
COPY --from=build --chown=65532:65532 /out/state /var/lib/ssm-ssh-gateway
VOLUME /var/lib/ssm-ssh-gateway
USER 65532:65532
WORKDIR /var/lib/ssm-ssh-gateway
EXPOSE 2222
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/ssm-ssh-gateway", "healthcheck"]
ENTRYPOINT ["/ssm-ssh-gateway"]
CMD ["serve", "--config", "/etc/ssm-ssh-gateway/config.toml"]
