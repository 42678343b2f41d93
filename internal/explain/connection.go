package explain

// What can be wrong with a connection, as the command line meets it.
const (
	Refused        ID = 5001
	UnknownHost    ID = 5002
	Timeout        ID = 5003
	NotTidewire    ID = 5004
	TLSOnPlain     ID = 5005
	VersionGap     ID = 5006
	Unreachable    ID = 5007
	Disconnected   ID = 5008
	BadAddress     ID = 5009
	NotConnected   ID = 5010
	NoAdminService ID = 5011
)

var connectionEntries = []Entry{
	{Refused, "connection refused", "The machine is there, and nothing listens at that port.", "Is the node up, and is that its address? `tidewire context ls` says which one is used; --server or TIDEWIRE_SERVER names another. `tidewire dev` starts one to try things on."},
	{UnknownHost, "unknown host", "The name of the machine does not resolve to an address.", "Check the name; --server and TIDEWIRE_SERVER take HOST:PORT, such as 127.0.0.1:7420."},
	{Timeout, "no answer in time", "The node, or the way to it, did not answer within --timeout. A packet filter that drops looks the same, and so does a server of another protocol that waits for more.", "Is the node up, and not overloaded? Its log says more; --timeout waits longer."},
	{NotTidewire, "not a Tidewire node", "Something else listens at that port, an HTTP, SSH or database server say: what it says is not the Tidewire protocol.", "Check the port: a node listens at 7420 unless told otherwise with --listen."},
	{TLSOnPlain, "the port speaks TLS", "The port wants TLS, and the connection was made without it.", "Name a port of the node without TLS, or check that the address is a Tidewire node's at all."},
	{VersionGap, "no common protocol version", "The node and this program have no version of the protocol in common.", "Compare `tidewire version` here and on the node, and update the older one."},
	{Unreachable, "no way to the machine", "There is no route to the machine's network, or a router says that it cannot be reached.", "Check the address, and that this machine is on the network that it should be on."},
	{Disconnected, "connection lost", "The connection ended in the middle: the node stopped, or the network broke.", "Try again; the node's log says whether it ended the connection, and why."},
	{BadAddress, "no address of a node", "What was given as address is no HOST or HOST:PORT.", "Give HOST:PORT, such as 127.0.0.1:7420, with --server, TIDEWIRE_SERVER or a context."},
	{NotConnected, "no connection", "The connection could not be made, for the reason that was given.", "Mend that, or name another node with --server or TIDEWIRE_SERVER."},
	{NoAdminService, "no admin service", "The node does not serve this request of the admin API: it is of another version.", "Compare `tidewire version` here and on the node, and update the older one."},
}
