package deliver

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// deliveryView is a delivery as the API shows it; Attempts only where one delivery is asked for.
type deliveryView struct {
	ID         domain.DeliveryID    `json:"id"`
	NoticeID   domain.NoticeID      `json:"notice_id"`
	EndpointID domain.EndpointID    `json:"endpoint_id"`
	Type       domain.NoticeType    `json:"type"`
	State      domain.DeliveryState `json:"state"`
	Reason     string               `json:"reason,omitempty"` // of one that was cancelled
	Tries      int                  `json:"tries"`
	NextAt     domain.Time          `json:"next_at,omitzero"`
	CreatedAt  domain.Time          `json:"created_at"`
	UpdatedAt  domain.Time          `json:"updated_at"`
	ExpiresAt  domain.Time          `json:"expires_at"`
	Attempts   []domain.Attempt     `json:"attempts,omitempty"`
}

func viewDelivery(d *domain.Delivery) deliveryView {
	return deliveryView{ID: d.ID, NoticeID: d.NoticeID, EndpointID: d.EndpointID, Type: d.Type, State: d.State, Reason: d.Reason, Tries: d.Tries,
		NextAt: d.NextAt, CreatedAt: d.CreatedAt, UpdatedAt: d.UpdatedAt, ExpiresAt: d.ExpiresAt}
}

func (s *Service) getDelivery(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(c, "delivery", domain.ParseID[domain.DeliveryID])
	if err != nil {
		return serve.Answer{}, err
	}
	d, err := s.ownDelivery(ctx, c, id)
	if err != nil {
		return serve.Answer{}, s.missing(c, string(id), err)
	}
	view := viewDelivery(d)
	view.Attempts = d.Attempts
	return serve.Answer{Body: view}, nil
}

func (s *Service) ownDelivery(ctx context.Context, c *serve.Call, id domain.DeliveryID) (*domain.Delivery, error) {
	d := &domain.Delivery{ID: id}
	if err := s.Store.Get(ctx, d); err != nil {
		return nil, err
	}
	if d.ClientID != c.Principal.ClientID {
		return nil, domain.ErrNotFound
	}
	return d, nil
}

// listDeliveries lists the newest first: all of the client's, those of one endpoint, of one notice, or the one of both.
func (s *Service) listDeliveries(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	limit, cursor := c.Paging()
	endpoint, notice, state := c.Param("endpoint_id"), c.Param("notice_id"), c.Param("state")
	q := domain.Query{Index: "deliveries_by_client", Match: []string{string(c.Principal.ClientID)}, Limit: limit, Cursor: cursor}
	switch {
	case endpoint != "" && notice != "":
		return s.listOne(ctx, c, deliveryID(domain.NoticeID(notice), domain.EndpointID(endpoint)), state)
	case notice != "": // one to each endpoint: so few that their state is looked at here
		q.Index, q.Match = "deliveries_by_notice", []string{notice}
	case endpoint != "" && state != "":
		q.Index, q.Match = "deliveries_by_endpoint_state_desc", []string{endpoint, state}
	case endpoint != "":
		q.Index, q.Match = "deliveries_by_endpoint", []string{endpoint}
	case state != "":
		q.Index, q.Match = "deliveries_by_state", append(q.Match, state)
	}
	deliveries, next, err := domain.List[domain.Delivery](ctx, s.Store, q)
	if err != nil {
		return serve.Answer{}, err
	}
	out := serve.List[deliveryView]{Data: []deliveryView{}, Next: next}
	for i := range deliveries {
		// Another client's endpoint or notice has another client's deliveries, all of them: nothing of it may be seen.
		if deliveries[i].ClientID != c.Principal.ClientID {
			return serve.Answer{Body: serve.List[deliveryView]{Data: []deliveryView{}}}, nil
		}
		if stands(&deliveries[i], state) {
			out.Data = append(out.Data, viewDelivery(&deliveries[i]))
		}
	}
	return serve.Answer{Body: out}, nil
}

// stands reports whether d is in a state; "" is any.
func stands(d *domain.Delivery, state string) bool { return state == "" || string(d.State) == state }

func (s *Service) listOne(ctx context.Context, c *serve.Call, id domain.DeliveryID, state string) (serve.Answer, error) {
	out := serve.List[deliveryView]{Data: []deliveryView{}}
	d, err := s.ownDelivery(ctx, c, id)
	if err == nil && stands(d, state) {
		out.Data = append(out.Data, viewDelivery(d))
	}
	return serve.Answer{Body: out}, domain.IgnoreNotFound(err)
}

// Bounds of one replay: it looks at so many notices at most, so many in one transaction.
const (
	replayMost  = 1000
	replayBatch = 100
)

// replayRequest says what to deliver again: one delivery, one notice to every endpoint that wants it, or all notices
// of a time range to one endpoint, those included that it missed while it was disabled or did not exist.
type replayRequest struct {
	DeliveryID *domain.DeliveryID `json:"delivery_id"`
	NoticeID   *domain.NoticeID   `json:"notice_id"`
	EndpointID *domain.EndpointID `json:"endpoint_id"`
	From       *domain.Time       `json:"from"` // with EndpointID: inclusive
	To         *domain.Time       `json:"to"`   // with EndpointID: exclusive
	State      *selection         `json:"state"`
	DryRun     bool               `json:"dry_run"` // count, and change nothing
	Cursor     string             `json:"cursor"`
}

// which deliveries are meant; all where nothing is said.
func (in *replayRequest) which() selection {
	if in.State == nil {
		return everything
	}
	return *in.State
}

// replayed is the answer: how many deliveries begin again, or would, and the cursor to go on with if there may be more. A
// delivery that is due anyway is left alone and not counted.
type replayed struct {
	Replayed int    `json:"replayed"`
	DryRun   bool   `json:"dry_run,omitzero"`
	Next     string `json:"next,omitempty"`
}

// validate notes every rule that the request breaks.
func (in *replayRequest) validate(f *domain.Faults) {
	given := 0
	for _, is := range []bool{in.DeliveryID != nil, in.NoticeID != nil, in.EndpointID != nil} {
		if is {
			given++
		}
	}
	if !wellFormed(in.DeliveryID, domain.ParseID[domain.DeliveryID]) {
		f.Add("/delivery_id", "want the identifier of a delivery")
	}
	if !wellFormed(in.NoticeID, domain.ParseID[domain.NoticeID]) {
		f.Add("/notice_id", "want the identifier of a notice: a webhook-id")
	}
	if !wellFormed(in.EndpointID, domain.ParseID[domain.EndpointID]) {
		f.Add("/endpoint_id", "want the identifier of an endpoint")
	}
	if given != 1 && !f.Spoilt("/delivery_id", "/notice_id", "/endpoint_id") {
		f.Add("", "want exactly one of delivery_id, notice_id and endpoint_id")
	}
	in.validateRange(f)
	if in.which() != everything && in.which() != undelivered {
		f.Add("/state", "want undelivered, for what was never made, failed or was cancelled, or all")
	}
	if len(in.Cursor) > 512 {
		f.Add("/cursor", "use next of the answer before, unchanged")
	}
}

// validateRange notes what is wrong with the time range.
func (in *replayRequest) validateRange(f *domain.Faults) {
	if in.From != nil && in.From.IsZero() {
		f.Add("/from", "want a time")
	}
	if in.To != nil && in.To.IsZero() {
		f.Add("/to", "want a time")
	}
	switch ranged := in.From != nil || in.To != nil || in.Cursor != ""; {
	case in.EndpointID == nil && ranged:
		f.Add("/endpoint_id", "from, to and cursor go with endpoint_id only")
	case in.EndpointID != nil && (in.From == nil || in.To == nil || !in.From.Before(*in.To)) && !f.Spoilt("/from", "/to"):
		f.Add("/from", "want both from and to, and from before to")
	}
}

// subject is the one identifier that a valid request has.
func (in *replayRequest) subject() string {
	switch {
	case in.EndpointID != nil:
		return string(*in.EndpointID)
	case in.DeliveryID != nil:
		return string(*in.DeliveryID)
	}
	return string(*in.NoticeID)
}

// wellFormed says whether an identifier that was sent has its form.
func wellFormed[T ~string](id *T, parse func(string) (T, error)) bool {
	if id == nil {
		return true
	}
	_, err := parse(string(*id))
	return err == nil
}

func (s *Service) replay(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	var in replayRequest
	faults, err := c.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	in.validate(faults)
	if err := faults.Err(); err != nil {
		return serve.Answer{}, err
	}
	out, seen, err := s.replayedBefore(ctx, c)
	if err == nil && !seen {
		switch {
		case in.EndpointID != nil:
			out, err = s.replayRange(ctx, c, &in)
		case in.DeliveryID != nil:
			out, err = s.replayDelivery(ctx, c, &in)
		default:
			out, err = s.replayNotice(ctx, c, &in)
		}
	}
	if err != nil {
		return serve.Answer{}, s.missing(c, in.subject(), err)
	}
	if in.DryRun {
		return serve.Answer{Body: out}, nil
	}
	return serve.Answer{Status: http.StatusAccepted, Body: out}, nil
}

// replayedBefore finds the answer to the same request made before.
func (s *Service) replayedBefore(ctx context.Context, c *serve.Call) (out replayed, seen bool, err error) {
	err = s.Store.Commit(ctx, func(tx domain.Tx) error {
		before, err := c.Once.Before(tx, c.Principal.ClientID)
		if seen = before != ""; err != nil || !seen {
			return err
		}
		return json.Unmarshal([]byte(before), &out)
	})
	return out, seen, err
}

func (s *Service) replayDelivery(ctx context.Context, c *serve.Call, in *replayRequest) (replayed, error) {
	id := *in.DeliveryID
	d, err := s.ownDelivery(ctx, c, id)
	if err != nil {
		return replayed{}, err
	}
	n, ep := domain.Notice{ID: d.NoticeID}, domain.Endpoint{ID: d.EndpointID}
	if err := ownEndpoint(c, &ep, s.Store.Get(ctx, &n, &ep)); err != nil {
		return replayed{}, err
	}
	if err := sendable(&ep); err != nil {
		return replayed{}, err
	}
	return s.again(ctx, c, in, []*domain.Notice{&n}, []domain.Endpoint{ep}, replayed{})
}

// sendable refuses to begin what could only be cancelled, or wait.
func sendable(ep *domain.Endpoint) error {
	switch {
	case ep.State != domain.EndpointEnabled:
		return errDisabled
	case ep.Unverified:
		return errUnverified
	}
	return nil
}

func (s *Service) replayNotice(ctx context.Context, c *serve.Call, in *replayRequest) (replayed, error) {
	n := domain.Notice{ID: *in.NoticeID}
	if err := s.Store.Get(ctx, &n); err != nil {
		return replayed{}, err
	}
	if n.ClientID != c.Principal.ClientID {
		return replayed{}, domain.ErrNotFound
	}
	endpoints, err := s.endpoints(ctx, n.ClientID)
	if err != nil {
		return replayed{}, err
	}
	return s.again(ctx, c, in, []*domain.Notice{&n}, endpoints, replayed{})
}

// replayRange goes through the client's notices of the time range, a batch in each transaction. If it breaks off, what
// was begun again stays so: the same Idempotency-Key then answers how far it came and where to go on.
func (s *Service) replayRange(ctx context.Context, c *serve.Call, in *replayRequest) (replayed, error) {
	ep := domain.Endpoint{ID: *in.EndpointID}
	if err := ownEndpoint(c, &ep, s.Store.Get(ctx, &ep)); err != nil {
		return replayed{}, err
	}
	if err := sendable(&ep); err != nil {
		return replayed{}, err
	}
	out := replayed{Next: in.Cursor}
	for range replayMost / replayBatch {
		notices, next, err := domain.List[domain.Notice](ctx, s.Store, domain.Query{Index: "notices_by_client",
			Match: []string{string(c.Principal.ClientID)}, From: in.From.String(), To: in.To.String(), Cursor: out.Next, Limit: replayBatch})
		if err != nil {
			return replayed{}, err
		}
		batch := make([]*domain.Notice, len(notices))
		for i := range notices {
			batch[i] = &notices[i]
		}
		if out, err = s.again(ctx, c, in, batch, []domain.Endpoint{ep}, replayed{Replayed: out.Replayed, Next: next}); err != nil || next == "" {
			return out, err
		}
	}
	return out, nil
}

// again begins the selected deliveries of the notices anew in one transaction, and adds them to what sofar counts. The
// answer as it then stands is what the same request gets again. A dry run only counts.
func (s *Service) again(ctx context.Context, c *serve.Call, in *replayRequest, notices []*domain.Notice, endpoints []domain.Endpoint, sofar replayed) (replayed, error) {
	out := sofar
	out.DryRun = in.DryRun
	err := s.Store.Commit(ctx, func(tx domain.Tx) error {
		due, err := s.plan(tx, notices, endpoints, in.which())
		out.Replayed = sofar.Replayed + len(due)
		if err != nil || len(due) == 0 || in.DryRun {
			return err
		}
		if err := dispatch(tx, due); err != nil {
			return err
		}
		answer, err := json.Marshal(out)
		if err != nil {
			return err
		}
		if err := c.Once.Remember(s.Env, tx, c.Principal.ClientID, string(answer)); err != nil {
			return err
		}
		return tx.Record(s.audited(c, "deliveries.replayed", in.subject(), map[string]string{"deliveries": strconv.Itoa(len(due))}))
	})
	return out, err
}
