package awsemu

// End ends a session as the service does by itself, at the idle or duration limit: channel_closed to both sides, with a text for the person.
// It reports whether there was an open session of that id.
func (s *Server) End(sessionID, output string) bool {
	ses := s.session(sessionID)
	return ses != nil && ses.finish(StatusTerminated, output, false)
}
