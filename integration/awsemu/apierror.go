package awsemu

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
)

// apiError is a refusal in the words of AWS. How the code is spelled where depends on the service; see wireError.
type apiError struct {
	code    string
	message string
	status  int
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// badRequest is an error with status 400, which is what nearly all of them have.
func badRequest(code, format string, args ...any) *apiError {
	return &apiError{code: code, message: fmt.Sprintf(format, args...), status: http.StatusBadRequest}
}

// accessDenied names principal, action and resource as IAM does.
func accessDenied(who *principal, action, resource, reason string) *apiError {
	return &apiError{
		code: codeAccessDenied, status: http.StatusBadRequest,
		message: fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s %s", who.arn, action, resource, reason),
	}
}

// Codes of errors that each protocol family spells in its own way.
const (
	codeAccessDenied   = "AccessDeniedException"
	codeThrottling     = "ThrottlingException"
	codeMissingToken   = "MissingAuthenticationTokenException"
	codeIncomplete     = "IncompleteSignatureException"
	codeUnknownKey     = "UnrecognizedClientException"
	codeBadSignature   = "InvalidSignatureException"
	codeRequestExpired = "RequestExpired"
	codeExpiredToken   = "ExpiredTokenException"
	codeUnknownAction  = "UnknownOperationException"
	codeInternal       = "InternalServerError"
)

// spellings gives code and status where they differ from the JSON services: EC2 and STS have names of their own (their "Common errors" pages).
var spellings = map[string]map[string]apiError{
	serviceEC2: {
		codeAccessDenied:   {code: "UnauthorizedOperation", status: http.StatusForbidden},
		codeThrottling:     {code: "RequestLimitExceeded", status: http.StatusServiceUnavailable},
		codeMissingToken:   {code: "MissingAuthenticationToken", status: http.StatusForbidden},
		codeIncomplete:     {code: "IncompleteSignature", status: http.StatusBadRequest},
		codeUnknownKey:     {code: "AuthFailure", status: http.StatusUnauthorized},
		codeBadSignature:   {code: "SignatureDoesNotMatch", status: http.StatusForbidden},
		codeRequestExpired: {code: "RequestExpired", status: http.StatusBadRequest},
		codeExpiredToken:   {code: "RequestExpired", status: http.StatusBadRequest},
		codeUnknownAction:  {code: "InvalidAction", status: http.StatusBadRequest},
		codeInternal:       {code: "InternalError", status: http.StatusInternalServerError},
	},
	serviceSTS: {
		codeAccessDenied:   {code: "AccessDenied", status: http.StatusForbidden},
		codeThrottling:     {code: "Throttling", status: http.StatusBadRequest},
		codeMissingToken:   {code: "MissingAuthenticationToken", status: http.StatusForbidden},
		codeIncomplete:     {code: "IncompleteSignature", status: http.StatusBadRequest},
		codeUnknownKey:     {code: "InvalidClientTokenId", status: http.StatusForbidden},
		codeBadSignature:   {code: "SignatureDoesNotMatch", status: http.StatusForbidden},
		codeRequestExpired: {code: "SignatureDoesNotMatch", status: http.StatusForbidden},
		codeExpiredToken:   {code: "ExpiredToken", status: http.StatusForbidden},
		codeUnknownAction:  {code: "InvalidAction", status: http.StatusBadRequest},
		codeInternal:       {code: "InternalFailure", status: http.StatusInternalServerError},
	},
	// The JSON services call a stale signature what it is, an invalid one.
	serviceSSM:        {codeRequestExpired: {code: codeBadSignature, status: http.StatusBadRequest}},
	serviceEC2Connect: {codeRequestExpired: {code: codeBadSignature, status: http.StatusBadRequest}},
	serviceKMS:        {codeRequestExpired: {code: codeBadSignature, status: http.StatusBadRequest}},
}

// wireError is err as service spells it. Errors that are not refusals are faults of the emulator.
func wireError(service string, err error) apiError {
	var e *apiError
	if !errors.As(err, &e) {
		e = &apiError{code: codeInternal, message: err.Error(), status: http.StatusInternalServerError}
	}
	wire := *e
	if as, ok := spellings[service][e.code]; ok {
		wire.code, wire.status = as.code, as.status
	}
	if service == serviceEC2 && e.code == codeAccessDenied {
		wire.message = "You are not authorized to perform this operation. " + e.message
	}
	return wire
}

type ec2Error struct {
	XMLName   xml.Name `xml:"Response"`
	Code      string   `xml:"Errors>Error>Code"`
	Message   string   `xml:"Errors>Error>Message"`
	RequestID string   `xml:"RequestID"`
}

type queryError struct {
	XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
	Type      string   `xml:"Error>Type"`
	Code      string   `xml:"Error>Code"`
	Message   string   `xml:"Error>Message"`
	RequestID string   `xml:"RequestId"`
}

// writeError answers with an error in the form of the service.
func writeError(w http.ResponseWriter, service, requestID string, wire apiError) {
	switch service {
	case serviceEC2:
		writeXML(w, wire.status, ec2Error{Code: wire.code, Message: wire.message, RequestID: requestID})
	case serviceSTS:
		writeXML(w, wire.status, queryError{Type: "Sender", Code: wire.code, Message: wire.message, RequestID: requestID})
	default:
		w.Header().Set("X-Amzn-Errortype", wire.code)
		writeJSON(w, wire.status, map[string]string{"__type": wire.code, "message": wire.message})
	}
}

// Once the header is out, a client that has gone away is all that can go wrong with an answer, and there is nobody left to tell.

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func writeXML(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(xml.Header))
	_ = xml.NewEncoder(w).Encode(v)
}
