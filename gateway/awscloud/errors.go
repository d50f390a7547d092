package awscloud

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// reasons translates the error codes of SSM, EC2, EC2 Instance Connect, KMS and STS. Throttling codes are the SDK's own list (retry.DefaultThrottleErrorCodes).
var reasons = map[string]authz.Reason{
	"AccessDenied":                        authz.ReasonAccessDenied, // STS
	"AccessDeniedException":               authz.ReasonAccessDenied, // SSM
	"UnauthorizedOperation":               authz.ReasonAccessDenied, // EC2
	"Client.UnauthorizedAccess":           authz.ReasonAccessDenied,
	"AuthException":                       authz.ReasonAccessDenied, // EC2 Instance Connect
	"ExpiredToken":                        authz.ReasonCredentials,
	"ExpiredTokenException":               authz.ReasonCredentials,
	"RequestExpired":                      authz.ReasonCredentials, // EC2: expired credentials, or a clock that is off
	"RequestTimeTooSkewed":                authz.ReasonCredentials,
	"UnrecognizedClientException":         authz.ReasonCredentials,
	"InvalidClientTokenId":                authz.ReasonCredentials,
	"AuthFailure":                         authz.ReasonCredentials, // EC2: "unable to validate the provided access credentials"
	"InvalidSignatureException":           authz.ReasonCredentials,
	"SignatureDoesNotMatch":               authz.ReasonCredentials,
	"IncompleteSignature":                 authz.ReasonCredentials,
	"MissingAuthenticationToken":          authz.ReasonCredentials,
	"MissingAuthenticationTokenException": authz.ReasonCredentials,
	"RegionDisabledException":             authz.ReasonCredentials, // STS: not activated in that region
	"OptInRequired":                       authz.ReasonCredentials,
	"TargetNotConnected":                  authz.ReasonTargetNotConnected,
	"InvalidDocument":                     authz.ReasonDocument,
	"InvalidDocumentVersion":              authz.ReasonDocument,
	"InvalidParameters":                   authz.ReasonDocument, // the document has no such parameter, or its pattern excludes the port
	"EC2InstanceStateInvalidException":    authz.ReasonInstanceState,
	"EC2InstanceNotFoundException":        authz.ReasonInstanceState,
	"EC2InstanceUnavailableException":     authz.ReasonInstanceState,
	"InvalidInstanceID.NotFound":          authz.ReasonInstanceState,
	"InvalidInstanceId":                   authz.ReasonInstanceState, // SSM: not a managed node, terminated, …
	"InvalidArgsException":                authz.ReasonKeyRefused,    // the OS user was checked before: what is left is the key
	"DependencyTimeoutException":          authz.ReasonTimeout,       // KMS
	"RequestTimeout":                      authz.ReasonTimeout,
	"RequestTimeoutException":             authz.ReasonTimeout,
}

// details says what an error code means where the reason alone is too coarse.
var details = map[string]string{ //nolint:gosec // what is said about keys, and no key
	"EC2InstanceStateInvalidException": "not running",
	"EC2InstanceNotFoundException":     "unknown to EC2 Instance Connect",
	"EC2InstanceUnavailableException":  "unavailable for the moment",
	"InvalidInstanceID.NotFound":       "terminated",
	"InvalidInstanceId":                "not a managed node",
	"InvalidArgsException":             "EC2 Instance Connect does not take this key",
	"NotFoundException":                "KMS does not know the key of the session",
	"DisabledException":                "the KMS key of the session is disabled",
	"KMSInvalidStateException":         "the KMS key of the session cannot be used in its state",
	"InvalidKeyUsageException":         "the KMS key of the session is not for encryption",
	"KeyUnavailableException":          "the KMS key of the session is unavailable for the moment",
	"PackedPolicyTooLarge":             "session tags and session policy together are too large for STS",
	"MalformedPolicyDocument":          "STS does not take the session policy",
	"ExpiredToken":                     "expired",
	"ExpiredTokenException":            "expired",
	"RequestTimeTooSkewed":             "the clock is off",
	"SignatureDoesNotMatch":            "the secret access key does not fit the key",
	"InvalidSignatureException":        "the secret access key does not fit the key",
	"AuthFailure":                      "AWS does not know the access key",
	"UnrecognizedClientException":      "AWS does not know the access key or its session token",
	"InvalidClientTokenId":             "AWS does not know the access key or its session token",
	"RegionDisabledException":          "STS is not activated in this region",
	"OptInRequired":                    "the account has not opted in to this region or service",
}

// translate makes a refusal of anything the SDK returns. It keeps err as the cause and reads nothing but its type and code: AWS's sentences
// are not an interface.
func translate(err error, action, role string) *authz.Refusal {
	var refusal *authz.Refusal
	if errors.As(err, &refusal) { // a step inside, such as AssumeRole or the search for credentials, which knows better what failed
		return refusal
	}
	refusal = &authz.Refusal{Reason: authz.ReasonCloud, Action: action, Role: role, Cause: err}
	var api smithy.APIError
	var timeout net.Error
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &api):
		refusal.Reason, refusal.Detail = reasonOf(api.ErrorCode(), action), details[api.ErrorCode()]
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		refusal.Reason = authz.ReasonTimeout
	case errors.As(err, &timeout) && timeout.Timeout():
		refusal.Reason = authz.ReasonTimeout
	case errors.As(err, &untrusted):
		refusal.Detail = "the certificate of AWS's endpoint is not trusted"
	case isNetwork(err):
		refusal.Detail = "AWS cannot be reached"
	}
	return refusal
}

func reasonOf(code, action string) authz.Reason {
	if _, throttled := retry.DefaultThrottleErrorCodes[code]; throttled {
		return authz.ReasonThrottled
	}
	if reason, known := reasons[code]; known {
		return reason
	}
	if code == "ValidationException" && action == actionStartSession { // parameters that the document does not declare, or not with such values
		return authz.ReasonDocument
	}
	return authz.ReasonCloud
}

func isNetwork(err error) bool {
	var network *net.OpError
	var name *net.DNSError
	return errors.As(err, &network) || errors.As(err, &name)
}

// hasCode reports whether err is an AWS error of that code.
func hasCode(err error, code string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == code
}
