package gateway

// Load is how much a server carries at a moment.
type Load struct {
	Startups    int   // connections that have not logged in
	Connections int   // connections that have
	Stays       int   // jumps, direct logins and ports
	Dropped     int64 // connections dropped because of Limits.StartupsBegin, StartupsFull and StartupsPerSource, since the start
	Draining    bool  // Shutdown has been called
}

// Load gives the present numbers.
func (s *Server) Load() Load {
	now := Load{Startups: s.startups.waiting(), Connections: s.seats.taken(), Dropped: s.dropped.Load(), Draining: s.isDraining()}
	for _, c := range s.connections() {
		now.Stays += c.stays()
	}
	return now
}

func (s *startups) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (s *seats) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (c *conn) stays() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.visits)
}
