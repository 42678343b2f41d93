package explain

// Numbers of what only the admin API refuses.
const (
	BadRequest      ID = 4101
	ETagMismatch    ID = 4102
	RequestIDReused ID = 4103
	NotDeleted      ID = 4104
	NoSettings      ID = 4105
	BadSettings     ID = 4106
)

var adminEntries = []Entry{
	{BadRequest, "a field of the request is wrong", "A call of the admin API has a value that cannot be, lacks one, or names a field that cannot be changed. The answer names the field.", "Correct the field; docs/reference/admin-api.md says what each may be. If several deleted streams had one name, say by its number which is meant: `tidewire stream ls --deleted` shows the numbers, `--id` takes one."},
	{ETagMismatch, "the stream was changed meanwhile", "The call brought the etag of an earlier state of the stream: somebody changed it in between. Nothing was done.", "Get the stream again, decide anew, and repeat the call with the new etag."},
	{RequestIDReused, "the request id was used before", "Another request was made under the same request_id within the last hour. Nothing was done.", "Take a new id, a UUID say, for each change; use an id again only to repeat the very same call."},
	{NotDeleted, "the stream is not deleted", "Undelete and purge are for deleted streams, and this one lives. Nothing was done.", "To undelete it there is nothing to do. To remove it with its data at once, give `tidewire stream rm NAME --purge`; in the API, purge it with force."},
	{NoSettings, "the node has no configuration to show", "The node was started without a configuration loader, by a program that embeds it say.", "Start it with `tidewire server`, or `tidewire dev`."},
	{BadSettings, "the configuration cannot be reloaded", "What the node read again is not right, so nothing of it was taken over: it goes on as it was.", "Correct what the message names, then reload again."},
}
