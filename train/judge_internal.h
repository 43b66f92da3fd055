/* judge_internal.h - what judge.c and judge_train.c share. */
#ifndef TRAIN_JUDGE_INTERNAL_H
#define TRAIN_JUDGE_INTERNAL_H

#include "train/judge.h"

enum { TRAIN_JUDGE_VALUES = TRAIN_JUDGE_SIDE * TRAIN_JUDGE_SIDE * 3 }; /* of a picture */

/* A judge whose weights have memory and no values. */
ag_status train_judge_new(train_judge **out, ag_ctx *ctx);
/* Put mean, deviation and r2 where the network's file has them. */
ag_status train_judge_settle(ag_ctx *ctx, train_judge *judge);

#endif /* TRAIN_JUDGE_INTERNAL_H */
