package ssmproto

import "time"

// news is what the reader of a session has found out and not told yet. Messages often come several at a time; those who wait are woken once for all of
// them, when nothing more is there to be read.
type news struct {
	data bool // for Read: there is some
	room bool // for Write: there is some in the window
	work bool // for the writer: an acknowledgement to send, or a message to repeat

	sent int64 // how many numbered messages had been sent when the news last had data
}

// settle tells the news, and says what they are about. They answer if they have data and anything was sent since data came the last time. The reader calls it
// before it waits.
func (c *Conn) settle(now time.Time) about {
	c.mu.Lock()
	defer c.mu.Unlock()
	answers := c.news.data && c.send.unsent > c.news.sent
	length := c.bulk.look(now, c.news.data, answers, c.send.empty())
	c.tellNews()
	return about{answers, length}
}

// tellNews is settle for a caller that holds mu.
func (c *Conn) tellNews() {
	told := c.news
	c.news = news{sent: told.sent}
	if told.data {
		c.news.sent = c.send.unsent
		c.readable.Broadcast()
	}
	if told.room {
		c.progress.Broadcast()
	}
	if told.work {
		c.wake()
	}
}
