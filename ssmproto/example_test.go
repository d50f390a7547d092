package ssmproto_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// startSession stands for the AWS SDK's StartSession with the document AWS-StartSSHSession.
func startSession() ssmproto.Grant {
	return ssmproto.Grant{
		SessionID: "alice-0123456789abcdef0",
		StreamURL: "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/alice-0123456789abcdef0?role=publish_subscribe",
		Token:     ssmproto.NewToken("from StartSession"),
	}
}

func ExampleDial() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := ssmproto.Dial(ctx, startSession(), &ssmproto.Options{WaitForPeer: true})
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.Copy(os.Stdout, conn); errors.Is(err, ssmproto.ErrConnectToPort) {
		log.Print("nothing listens on that port")
	}
}

// A session that is being watched: how much is under way, and over what kind of path.
func ExampleConn_Stats() {
	conn, err := ssmproto.Dial(context.Background(), startSession(), &ssmproto.Options{DiscoverPayload: 16 << 10})
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = conn.Close() }()
	s := conn.Stats()
	fmt.Printf("%s: %d bytes under way, round trip %v, messages of up to %d bytes, %d sent again, %d resumptions\n",
		s.State, s.UnackedBytes, s.RoundTrip, s.MaxPayload, s.Resends, s.Resumes)
}

func ExampleNewMux() {
	conn, err := ssmproto.Dial(context.Background(), startSession(), nil)
	if err != nil {
		log.Print(err)
		return
	}
	mux, err := ssmproto.NewMux(conn)
	if err != nil {
		_ = conn.Close()
		log.Print(err)
		return
	}
	defer func() { _ = mux.Close() }()
	stream, err := mux.Open(context.Background())
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = stream.Close() }()
	_, _ = io.WriteString(stream, "GET / HTTP/1.0\r\n\r\n")
	_, _ = io.Copy(os.Stdout, stream)
}

// One connection to a port, whatever the agent makes of the document: with new agents a stream of smux, with old ones the session itself.
func ExampleDialPort() {
	conn, err := ssmproto.DialPort(context.Background(), startSession(), nil)
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	if _, err := io.Copy(os.Stdout, conn); errors.Is(err, ssmproto.ErrConnectToPort) {
		log.Print("nothing listens on that port")
	}
}

// A shell, from a StartSession without document. The end of a session that the service ends has a text for the user.
func ExampleDialShell() {
	shell, err := ssmproto.DialShell(context.Background(), startSession(), &ssmproto.Options{WaitForPeer: true})
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = shell.Close() }()
	_ = shell.Resize(ssmproto.Size{Cols: 80, Rows: 24})
	_, _ = io.WriteString(shell, "uptime; exit\r")
	_, err = io.Copy(os.Stdout, shell)
	var ended *ssmproto.SessionEndedError
	if errors.As(err, &ended) {
		log.Print("ended by the service: ", ended.Output)
	}
}

// A command under a document of one's own with separateOutputStream, whose parameters were given to StartSession: standard error and exit code come apart.
func ExampleShell_ExitCode() {
	shell, err := ssmproto.DialShell(context.Background(), startSession(), nil)
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = shell.Close() }()
	stderr := make(chan struct{})
	go func() {
		defer close(stderr)
		_, _ = io.Copy(os.Stderr, shell.Stderr()) // beside the output: unread, it stops the session
	}()
	_, err = io.Copy(os.Stdout, shell)
	<-stderr
	if code, known := shell.ExitCode(); known {
		fmt.Println("it ended with", code, err)
	}
}

// A command under AWS-StartNonInteractiveCommand, which does not tell the exit status: a mark behind the output does.
func ExampleExitMark() {
	mark := ssmproto.NewExitMark(os.Stdout)
	command := mark.Wrap("systemctl is-active sshd") // the parameter "command" of StartSession
	_ = command
	shell, err := ssmproto.DialShell(context.Background(), startSession(), nil)
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = shell.Close() }()
	_, err = io.Copy(mark, shell)
	if err = errors.Join(err, mark.Flush()); err != nil {
		log.Print(err)
	}
	if code, known := mark.Code(); known {
		fmt.Println("it ended with", code)
	}
}

func ExampleParse() {
	message := ssmproto.Message{
		Type: ssmproto.InputStreamData, SchemaVersion: 1, Created: time.UnixMilli(1700000000000), SequenceNumber: 7,
		PayloadType: ssmproto.PayloadOutput, Payload: []byte("hello"),
	}
	frame := message.Append(nil)
	parsed, err := ssmproto.Parse(frame)
	fmt.Println(len(frame), parsed.Type, parsed.SequenceNumber, string(parsed.Payload), err)

	frame[len(frame)-1] ^= 1
	_, err = ssmproto.Parse(frame)
	fmt.Println(err)
	// Output:
	// 125 input_stream_data 7 hello <nil>
	// ssmproto: payload does not match its digest
}

func ExampleToken() {
	token := ssmproto.NewToken("secret")
	fmt.Printf("%v %+v %#v\n", token, token, token)
	// Output:
	// [redacted] [redacted] ssmproto.Token{[redacted]}
}
