// Package stripe spreads the SFTP traffic of one client over several SFTP streams to the same server: lanes.
//
// A Proxy stands between a client's stream and the first lane, and forwards every request and answer there as it came, byte for byte and in order,
// extensions it has never heard of included; of a WRITE, what follows its data is left out. A file that turns out to be large is opened on further lanes too, and from then on its READs and
// WRITEs go to whichever lane has room. It knows SFTP version 3 (draft-ietf-secsh-filexfer-02) and nothing of SSH or of clouds.
//
// # What is promised
//
// The client gets the answers that the server alone would have given, had nobody but the client touched the files. Those to the READs and WRITEs of one
// file come in the order of the requests; answers about different files may change places, as version 3 allows. In particular:
//
//   - A WRITE is answered when the server that did it has answered, but for the start of a small file; see below. fsync@openssh.com, CLOSE, FSTAT and everything else that
//     is not a READ or WRITE waits for the striped requests it could see or disturb, and goes to the first lane. Overlapping ranges keep their order, even
//     across files, as two names may be one file, and so do a READ past the end of a file and a WRITE behind it, which leaves zeros there.
//   - Only a regular file that is open for reading alone or for writing alone, and not for appending, is striped. Further lanes open it by the
//     same name, with no flag that creates or truncates, and are used only if FSTAT shows there what it shows on the first lane (type, mode, owner,
//     size, time of change). Writing stands still for that comparison.
//   - Any answer of a further lane but data in full, data up to the end of the file, or "written" is not believed: the first lane is asked again.
//   - At CLOSE the comparison is repeated. If a lane sees another file the answer is a failure with a sentence, whatever the server said.
//     A request that may take a name away or give it to another file waits until the lanes have closed what the client has, and so does the end of the stream.
//   - A lane that dies has its unanswered requests done again by others. The machine may still carry out a WRITE it had received; that does no
//     harm while the same bytes belong there. Where the client has since written the same range or set the size, CLOSE fails.
//   - An upload that ends early (no space, a client that leaves, a lost connection) leaves the part before the first hole and nothing behind it, as one
//     server would, because clients resume at the size they find; zeros, if the client sets the size all the same. This takes a lane that still answers: after the sudden death of the whole
//     process an interrupted upload may have holes within the last windows' worth of bytes.
//
// # Small files
//
// A client that copies many small files one after the other waits for the server several times for each; OpenSSH's do four times. A Proxy does not make it
// wait where the answer can be known, or can be taken back, and gives only answers that this server has given in this stream.
//
//   - The READ that finds the end of a file which was read in one go is answered from an FSTAT that went with that READ.
//
//   - The CLOSE of a file that was only read is answered at once. If it fails, the log has it.
//
//   - WRITEs from the start of a file, up to Config.Early, and an FSETSTAT that sets the size to what they came to, are answered when they have been sent,
//     if the client has no other request under way.
//     If one of them fails, every later request on the handle that would be told that all is well is told of the failure, and so is CLOSE, which is
//     never answered before the server has answered everything about the file. The file is cut before the WRITE that failed, as the client
//     would have left it had it been told at once. Until all are answered, nothing of the client's passes that could see or publish the file; nor does anything
//     while CLOSE waits for the cut.
//
//   - The OPEN of a file for an upload (for writing, creating it if need be, perhaps truncating it) is answered when it has been sent, if the client waits
//     for nothing, and has just copied another file into the same directory in the same way and done nothing since. It is given a handle of the
//     proxy's own. What it then writes early goes out at once under the handle that the server is about to give: the one that it was given back last, if it
//     has done so before and nothing else is under way. That is no other file's. Should it give another, or do the WRITE first, the WRITE is done again.
//     If the OPEN fails, every later request on the handle that would not be answered early, and CLOSE, has the failure for its answer; of extensions,
//     fsync@openssh.com. A client that uses a handle which it has closed is refused, where the server alone might have taken it for the next file's.
//
//   - While a client reads the small regular files of a directory in the order in which the server listed them, the next one is opened before it asks. It is
//     given that handle only if, after it has asked, FSTAT of the handle and STAT of the name agree (type, mode, owner, size, time of change), and its
//     first data is read then, not before. At most one file is open that the client has not asked for, for two seconds; no request that may change
//     files passes before it has been closed. The server's own log shows the file as opened.
//
// No WRITE that follows a failure is answered early, and no CLOSE of a file that was written. So a small upload takes two round trips, or one among others, and a
// small download two, or one in a directory that is read in order.
//
// # Small files side by side
//
// A client that has many small files under way at a time waits for its lane and not for round trips. Once it has opened eight files beside other requests of its,
// with no pause of two seconds, and has moved Config.Bulk, further lanes are opened. Each file that it opens then is placed on the lane with the least to do,
// whole: everything that is asked about its handle goes there, in order. The handle that the client gets is the proxy's own.
//
//   - That is for files opened for reading, and for those that OPEN makes. Whether it makes one is found out by forbidding it to take what is there
//     (SSH_FXF_EXCL). If it is refused, it is done as it came, on the first lane and in its turn; so is any other OPEN that a further lane refuses. A CLOSE that
//     the client sent later may come before it, and give back the handle that it is then given: another reason why the client's is the proxy's own.
//     No file that was open before is the same as one that has just been made, and only one path leads to it: this is how requests on different lanes are
//     known not to disturb each other. All others wait for each other as those about striped files do. The answer to a STAT waits until it is known
//     that OPENs from before it have emptied no file that was there; else it is asked again.
//
//   - When a lane is lost, its files are opened on the first one under their names. If such a file is as it was left (one that is read: type, mode, owner, size,
//     time of change; one that is written: a size that it can have), what was unanswered is done again. Else everything that is asked about it from then on is
//     answered with a failure that says so, CLOSE included. A file whose name was moved while it was open is not looked for.
//
//   - A file that turns out to be large enough to be striped, or whose handle is in a request that is not known, is opened on the first lane, compared as
//     above, and closed where it was; if that CLOSE fails, so does the client's.
//
//   - If more files, and requests by name, have had to wait for what is on other lanes than each eighth, no more files are placed. No more are made on further lanes in
//     a stream in which eight were there already, or in which something has been renamed, removed or linked.
//
// A lane takes files only if the current directory there has the first lane's path, mode and owner.
//
// # What is not promised
//
// Two requests that are under way at the same time may be done in either order if they reach a file that one of them makes by different paths: through a link to
// its directory, or one that was there before the file, or by a name that only the server takes for the same (it may pass over more than capitals). The size
// and times of a directory may be from before a file was made in it that is being made.
// After the loss of a lane the machine may still make a file that it was asked for, empty, though the client has removed it since. What it then still writes
// gives the file another time, and a mode, an owner or times that it then still sets may be set once more, after what the client has since asked for. A file
// that the client has meanwhile closed, opened again and written may get the older bytes.
//
// It is not promised that something else that changes a file during its transfer is seen at the moment the client asks. Data may have been read
// ahead, up to two seconds earlier; any request of the same client that may change a file throws it away. Times of last access may differ.
// Two files of the same size, owner, mode and second of change that take each other's place within one round trip are told apart only by
// what is written to them.
//
// In every case of doubt the file stays on the first lane, and the log has the reason.
//
// # Memory
//
// One stream holds at most 4 MiB of WRITEs that wait for a lane, Config.LaneWindow per lane of WRITEs without an answer, Config.ReadAhead of data read ahead,
// 8 MiB and a LaneWindow per lane of answers that came before their turn, 1 MiB of unsent answers, and a packet (at most 1 MiB, usually 32 or 256 KiB) per stream that is being read; and
// 1 MiB of the names of small files that were listed.
package stripe
