package explain

// wireEntries are the codes of docs/protocol.md section 10, which has them for programmers of clients.
var wireEntries = []Entry{
	{Wire(1), "the node failed", "Something in the node went wrong that should not have.", "Look into the node's log, which says more, and report it."},
	{Wire(2), "malformed bytes", "The client sent bytes that do not decode. The node closed the connection.", "It is a bug of the client, or another program speaks to this port: check the address and update the client."},
	{Wire(3), "too large", "A frame, batch or record is above its limit, which the message names.", "Make it smaller: a record, with subject, key and headers, is at most 1 MiB."},
}
