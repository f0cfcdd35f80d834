package gcp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/iterator"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluis.internal/shared/domain"
)

// Subscribe makes the topics, each with a subscription of its name for [Backend.Run] to pull from, where they are
// missing. A project whose topics are pushed to functions is refused: those would handle each event a second time.
func (b *Backend) Subscribe(ctx context.Context, topics ...domain.Topic) error {
	there := map[string]bool{}
	subscriptions := b.bus.SubscriptionAdminClient.ListSubscriptions(ctx, &pubsubpb.ListSubscriptionsRequest{Project: "projects/" + b.opts.Project})
	for {
		s, err := subscriptions.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			return fmt.Errorf("listing subscriptions: %w", err)
		}
		there[s.Name] = true
		if s.PushConfig.GetPushEndpoint() != "" && slices.ContainsFunc(topics, func(t domain.Topic) bool { return s.Topic == b.topic(t) }) {
			return fmt.Errorf("subscribing: functions are deployed in project %s (%s is pushed to one); take a project of your own", b.opts.Project, s.Topic)
		}
	}
	for _, topic := range topics {
		name := fmt.Sprintf("projects/%s/subscriptions/%s", b.opts.Project, topic)
		if there[name] {
			continue
		}
		_, err := b.bus.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: b.topic(topic)})
		if err == nil || status.Code(err) == codes.AlreadyExists {
			_, err = b.bus.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{Name: name, Topic: b.topic(topic), AckDeadlineSeconds: 10})
		}
		if err != nil && status.Code(err) != codes.AlreadyExists {
			return fmt.Errorf("subscribing to %s: %w", topic, err)
		}
	}
	return nil
}

func (b *Backend) topic(t domain.Topic) string {
	return fmt.Sprintf("projects/%s/topics/%s", b.opts.Project, t)
}
