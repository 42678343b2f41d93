package explain

// What the command line says beside that.
const (
	Unexpected       ID = 6000
	Usage            ID = 6001
	UnknownVerb      ID = 6002
	OutputFailed     ID = 6003
	NotStored        ID = 6004
	NotAllStored     ID = 6005
	LineTooLong      ID = 6006
	InputFailed      ID = 6007
	NoAck            ID = 6008
	OffsetOfMany     ID = 6009
	OffsetBeyond     ID = 6010
	ReadingStopped   ID = 6011
	BenchInterrupted ID = 6012
	BenchUnfinished  ID = 6013
	DiskNotMeasured  ID = 6014
	NotConfirmed     ID = 6015
	NoData           ID = 6016
	CannotLook       ID = 6017
	NodeRuns         ID = 6018
	LookingStopped   ID = 6019
	NoTemporary      ID = 6020
	DemoInterrupted  ID = 6021
	DemoFailed       ID = 6022
	StreamRequest    ID = 6023
	UnknownError     ID = 6025
	UnknownContext   ID = 6026
	ContextExists    ID = 6027
	ContextFile      ID = 6028
	NoPrevious       ID = 6029
	Protected        ID = 6030
	EditorFailed     ID = 6031
	NotWritten       ID = 6033
	NodeRequest      ID = 6034
	NotReady         ID = 6035
	TooFew           ID = 6036
)

var commandEntries = []Entry{
	{Unexpected, "unexpected error", "Something went wrong that this program has no better words for.", "The reason beside it says more; if it does not help, report it."},
	{Usage, "wrong usage", "The command was not called right: an argument or flag is missing, unknown or has a value that it cannot have.", "See the command's --help."},
	{UnknownVerb, "unknown command", "There is no command of that name.", "`tidewire --help` lists the commands."},
	{OutputFailed, "output not written", "Standard output could not be written: the disk is full, or the program that read it is gone.", "Free space, or see why the reader ended, and run the command again."},
	{NotStored, "record not stored", "A record could not be published, for the reason that was given.", "Mend that and publish it again; if it may be stored, look first with `tidewire sub`."},
	{NotAllStored, "not every line stored", "Publishing lines ended early, for the reason that was given. Which lines are stored is said beside it.", "Mend that, and go on from the first line that is not stored."},
	{LineTooLong, "line too long", "A line of the input is longer than a record can be. The lines before it are stored, none behind it is.", "Split it, or store it elsewhere and publish a reference."},
	{InputFailed, "input not read", "Standard input could not be read any further.", "See why it ended, and go on from the line that was named."},
	{NoAck, "no ack in time", "Records are on their way, and the node has acknowledged none of them for the time of --timeout.", "Is the node up, and not overloaded? Its log says more; --timeout waits longer."},
	{OffsetOfMany, "offset of several partitions", "The filter selects several partitions, and each has offsets of its own.", "Give --from first, last, next or a time; an offset goes with a filter that selects one stream of one partition."},
	{OffsetBeyond, "offset behind the end", "The partition does not reach that far: no record has that offset, nor will the next one.", "Give an offset that is kept, or --from first, last, next or a time."},
	{ReadingStopped, "reading stopped", "Reading ended before it should have, for the reason that was given.", "Mend that; --from goes on where it ended."},
	{BenchInterrupted, "nothing measured", "The benchmark was stopped before it had measured anything.", "Let it run longer than its --warmup. If nothing was acknowledged at all, see with `tidewire health` what keeps the node from it."},
	{BenchUnfinished, "benchmark not finished", "The benchmark ended early, for the reason that was given.", "Mend that and run it again; a figure of a broken run means nothing."},
	{DiskNotMeasured, "disk not measured", "The directory of --disk could not be written to and synced.", "Give --disk a directory that you may write to."},
	{NotConfirmed, "not confirmed", "The question was not answered with yes, so nothing was done.", "Nothing; or answer y."},
	{NoData, "no data there", "The directory is missing, a file, or holds no log.", "Name a node's data directory, or one partition's in it (DIR/partitions/1)."},
	{CannotLook, "cannot look", "A file or directory could not be opened for reading, which says nothing of what is in it.", "Run the command as the user that the node runs as."},
	{NodeRuns, "a node runs on the directory", "A running node holds the directory's lock. What it is just writing would look like damage.", "Stop the node first, or copy the directory and look at the copy."},
	{LookingStopped, "examination stopped", "A log could not be read to its end: not for damage, which is reported and passed over, but because reading itself failed.", "See what the disk says (dmesg), and try again."},
	{NoTemporary, "no temporary directory", "A temporary directory could not be made.", "Free space in it, or name another one with TMPDIR."},
	{DemoInterrupted, "demo interrupted", "The demo was stopped before its end.", "Nothing: its node is stopped and its files are removed."},
	{DemoFailed, "demo failed", "A step of the demo did not come out as it must.", "Look at the node's log and data, which are kept, and report it."},
	{StreamRequest, "request about streams failed", "The node did not do what was asked about a stream, for the reason that was given.", "Mend that and try again: to ask twice does no harm."},
	{UnknownError, "no such error", "There is no error of that number in this version.", "`tidewire explain ls` lists all; an error of a newer version is explained by that version."},
	{UnknownContext, "no such context", "There is no context of that name.", "List them with `tidewire context ls`, make one with `tidewire context add NAME --server ADDRESS`."},
	{ContextExists, "the context exists", "There is a context of that name already.", "Choose another name, or change it with `tidewire context edit NAME`."},
	{ContextFile, "contexts not readable", "The file of the contexts cannot be read or written, or does not hold what it should.", "Mend the file by hand, or remove it and add the contexts anew."},
	{NoPrevious, "no previous context", "There is no context that was selected before the present one.", "Name one: `tidewire context select NAME`."},
	{Protected, "protected", "The node belongs to a protected context: what removes data must be confirmed by the stream's name, and to forget the context by its own.", "Type the name when asked, or give --yes=NAME."},
	{EditorFailed, "editor failed", "The editor named by VISUAL or EDITOR did not end well, so nothing was changed.", "Give the changes as flags, or set EDITOR."},
	{NotWritten, "file not written", "A file could not be written.", "Name another directory, or make room in it."},
	{NodeRequest, "request about the node failed", "The node did not answer what was asked about itself, or did not do it, for the reason that was given.", "Mend that and try again: to ask twice does no harm."},
	{NotReady, "the node is not ready", "The node answers, and one of its checks fails, which are named with the reason. It may not take publishes, or not of every stream.", "As the reason says; docs/guides/monitoring.md tells what each check means. --wait waits until it is ready."},
	{TooFew, "fewer records than asked for", "--no-follow reads what there is, and that is fewer records than --count asks for. Those are printed.", "Ask for fewer, or leave out --no-follow to wait for the others."},
}
