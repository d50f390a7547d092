package awsemu

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signature Version 4 as the IAM user guide describes it ("Create a signed AWS API request"), header form only.
const (
	algorithm  = "AWS4-HMAC-SHA256"
	amzDate    = "20060102T150405Z"
	maxSkew    = 5 * time.Minute
	scopeParts = 5 // access key, date, region, service, aws4_request
)

// signature is a parsed Authorization header with the headers that belong to it.
type signature struct {
	accessKey string
	date      string // YYYYMMDD
	region    string
	service   string
	headers   []string // signed headers, as listed
	value     string   // hex
	time      time.Time
	stamp     string // X-Amz-Date as sent
}

// parseSignature reads what the caller claims; nothing is verified.
func parseSignature(r *http.Request) (*signature, error) {
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return nil, badRequest(codeMissingToken, "Request is missing Authentication Token")
	}
	rest, ok := strings.CutPrefix(authorization, algorithm+" ")
	if !ok {
		return nil, badRequest(codeIncomplete, "Unsupported AWS 'algorithm': '%s'.", strings.SplitN(authorization, " ", 2)[0])
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[k] = v
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != scopeParts || scope[4] != "aws4_request" || fields["SignedHeaders"] == "" || fields["Signature"] == "" {
		return nil, badRequest(codeIncomplete, "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters.")
	}
	stamp := r.Header.Get("X-Amz-Date")
	at, err := time.Parse(amzDate, stamp)
	if err != nil || !strings.HasPrefix(stamp, scope[1]) {
		return nil, badRequest(codeBadSignature, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP")
	}
	return &signature{
		accessKey: scope[0], date: scope[1], region: scope[2], service: scope[3],
		headers: strings.Split(fields["SignedHeaders"], ";"), value: fields["Signature"], time: at, stamp: stamp,
	}, nil
}

// verify finds out who signed the request, and that nobody changed it since.
func (s *Server) verify(r *http.Request, sig *signature, body []byte) (*principal, error) {
	if err := sig.checkHeaders(r); err != nil {
		return nil, err
	}
	who := s.principalOf(sig.accessKey)
	if who == nil {
		return nil, badRequest(codeUnknownKey, "The security token included in the request is invalid.")
	}
	now := s.now()
	if skew := now.Sub(sig.time); skew > maxSkew {
		return nil, badRequest(codeRequestExpired, "Signature expired: %s is now earlier than %s (%s - 5 min.)",
			sig.stamp, now.Add(-maxSkew).UTC().Format(amzDate), now.UTC().Format(amzDate))
	} else if skew < -maxSkew {
		return nil, badRequest(codeRequestExpired, "Signature not yet current: %s is still later than %s (%s + 5 min.)",
			sig.stamp, now.Add(maxSkew).UTC().Format(amzDate), now.UTC().Format(amzDate))
	}
	want := sig.sign(who.secret, canonicalRequest(r, sig.headers, body))
	if !hmac.Equal([]byte(want), []byte(sig.value)) {
		return nil, badRequest(codeBadSignature, "The request signature we calculated does not match the signature you provided. "+
			"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	if r.Header.Get("X-Amz-Security-Token") != who.token {
		return nil, badRequest(codeUnknownKey, "The security token included in the request is invalid.")
	}
	if !who.expires.IsZero() && !now.Before(who.expires) {
		return nil, badRequest(codeExpiredToken, "The security token included in the request is expired")
	}
	return who, nil
}

// checkHeaders demands that the host and every x-amz- header is signed, as AWS does; otherwise they could be changed on the way.
func (sig *signature) checkHeaders(r *http.Request) error {
	if !slices.Contains(sig.headers, "host") {
		return badRequest(codeBadSignature, "'Host' must be a 'SignedHeader' in the AWS Authorization.")
	}
	for name := range r.Header {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-amz-") && !slices.Contains(sig.headers, lower) {
			return badRequest(codeBadSignature, "There were headers present in the request which were not signed: %s", lower)
		}
	}
	return nil
}

// sign computes the signature over a canonical request.
func (sig *signature) sign(secret, canonical string) string {
	scope := strings.Join([]string{sig.date, sig.region, sig.service, "aws4_request"}, "/")
	hash := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{algorithm, sig.stamp, scope, hex.EncodeToString(hash[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range []string{sig.date, sig.region, sig.service, "aws4_request"} {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, text))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// canonicalRequest writes down what was signed. The path is encoded once more than it is on the wire (every service but S3).
// The hash is that of the body that arrived, whatever X-Amz-Content-Sha256 claims.
func canonicalRequest(r *http.Request, headers []string, body []byte) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n")
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	b.WriteString(encode(path, "/") + "\n")
	b.WriteString(canonicalQuery(r.URL.Query()) + "\n")
	for _, name := range headers {
		b.WriteString(name + ":" + canonicalHeader(r, name) + "\n")
	}
	hash := sha256.Sum256(body)
	b.WriteString("\n" + strings.Join(headers, ";") + "\n" + hex.EncodeToString(hash[:]))
	return b.String()
}

func canonicalHeader(r *http.Request, name string) string {
	switch name {
	case "host":
		return r.Host
	case "content-length":
		if r.Header.Get(name) == "" { // net/http keeps it apart
			return strconv.FormatInt(r.ContentLength, 10)
		}
	}
	values := slices.Clone(r.Header.Values(name))
	for i, v := range values {
		values[i] = strings.Join(strings.Fields(v), " ")
	}
	return strings.Join(values, ",")
}

func canonicalQuery(q url.Values) string {
	var pairs []string
	for k, values := range q {
		for _, v := range values {
			pairs = append(pairs, encode(k, "")+"="+encode(v, ""))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

// encode is RFC 3986 percent-encoding of everything but the unreserved characters and those in also.
func encode(text, also string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.~"+also, c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}
